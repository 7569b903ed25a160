"""What every edit is judged beside: the same edit in other, matched rows, and questions about whether it is believed."""

from collections.abc import Mapping, Sequence

from mmlens.analysis.controls.matches import Match
from mmlens.analysis.controls.random_units import random_units
from mmlens.analysis.samples.sample import Sample
from mmlens.core.errors import InputError
from mmlens.inputs.batch import MultimodalBatch
from mmlens.interventions.edits.edit import Edit
from mmlens.models.hooked import HookedMultimodal

#: Whose edits in matched rows there are none of, and why.
_UNKNOWN = "it is not known how it was taught (read from a file, added, multiplied, or of a whole layer); make it here"


def matched_edits(
    model: HookedMultimodal, edit: Edit, batch: MultimodalBatch, *, match: Match, draws: int, seed: int
) -> tuple[list[Edit], str]:
    """The same edit of other rows of the same layers, as active as its own, and what they are matched by.

    Args:
        model: the hooked model.
        edit: which.
        batch: prompts whose answers say the source, on which activations are compared.
        match: what the rows share.
        draws: how many sets of rows.
        seed: of the draws.

    Returns:
        The edits and the match in words; no edits and the reason where there can be none.
    """
    if edit.teach is None:
        return [], _UNKNOWN
    try:
        units = random_units(model, edit.rows, match=match, draws=draws, seed=seed, batch=batch)
        return [edit.retaught(rows) for rows in units], match.quantity or "layer"
    except InputError as error:
        return [], str(error).rstrip(".")


def presence_questions(
    model: HookedMultimodal, targets: Mapping[str, Sequence[Sample]], source: str, target: str
) -> tuple[dict[str, list[Sample]], str]:
    """Whether there is the source, and whether there is the target, asked about every picture of the target prompts.

    Args:
        model: the hooked model.
        targets: prompts by set.
        source, target: the words.

    Returns:
        The sets "presence of the old" and "presence of the new", with the answers that agree with the edit; none, and the
        reason, where the model's tokenizer does not know such questions.
    """
    samples = {sample.shown: sample for group in targets.values() for sample in group if sample.images}
    if not samples:
        return {}, "No presence was asked for: the target prompts have no pictures."
    sets = {}
    for name, word, answer in (("presence of the old", source, "no"), ("presence of the new", target, "yes")):
        question = f"is there {'an' if word[:1].lower() in 'aeiou' else 'a'} {word}"
        unknown = model.tokenizer.unk_token_id
        if unknown is not None and unknown in model.tokenizer.encode(question, add_special_tokens=False):
            return (
                {},
                f"No presence was asked for: the tokenizer does not know all words of {question!r}; pass consistency=.",
            )
        sets[name] = [
            Sample(sample.images, _in_style(question, sample.prompt), name=sample.name, answer=answer)
            for sample in samples.values()
        ]
    return sets, ""


def _in_style(question: str, prompt: str) -> str:
    """A question with a capital and a question mark, where another prompt has them."""
    capital = prompt[:1].isupper()
    return (question[0].upper() + question[1:] if capital else question) + (
        "?" if prompt.rstrip().endswith("?") else ""
    )
