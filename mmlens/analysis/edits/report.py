"""Judging edits: does the new word come, also for other pictures and prompts, and what else has changed?

Success: the source is gone from the answer and the target is in it. Generality: the same on pictures and prompts that the
edit was not made from. Consistency: answers to other questions agree with it, as to "is there a red star" and "is there a
blue star". Locality: answers and probabilities on prompts without the source, and on neighbouring concepts, stay. All of it
before and after for every prompt, beside the same edit in other rows that are as active.

Source of consistency: Cohen et al., "Evaluating the Ripple Effects of Knowledge Editing in Language Models", TACL 2024
(https://arxiv.org/abs/2307.12976).
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

from mmlens.analysis.controls.matches import MATCHES, Match
from mmlens.analysis.controls.matches.activation import Activation
from mmlens.analysis.edits.answers import edit_cases
from mmlens.analysis.edits.cases import EditCase, EditFacts, Role
from mmlens.analysis.edits.controls import matched_edits, presence_questions
from mmlens.analysis.edits.outcome import EditReport
from mmlens.analysis.samples.chunks import chunks_of, shared_chunks
from mmlens.analysis.samples.sample import Dataset, Sample, as_samples, batches
from mmlens.core.checkpoint import Checkpoint
from mmlens.core.contract import checked
from mmlens.core.errors import InputError
from mmlens.core.kinds import Count, CountOrZero, PathLike, Seed
from mmlens.core.packing import form_of
from mmlens.inputs.batch import MultimodalBatch
from mmlens.interventions.edits.edit import Edit
from mmlens.interventions.edits.examples import as_word
from mmlens.models.hooked import HookedMultimodal, WritingModel
from mmlens.models.identity import run_identity

Sets = Dataset | Mapping[str, Dataset]
#: Rows that are as active where the answer is decided.
MATCH = Activation(positions="last")


@checked
def edit_report(
    model: WritingModel,
    edits: Edit | Sequence[Edit] | Mapping[str, Edit | Sequence[Edit]],
    *,
    targets: Sets,
    controls: Sets,
    consistency: Sets | None = None,
    matched: CountOrZero = 5,
    match: str | Match = MATCH,
    seed: Seed = 0,
    source: str | None = None,
    target: str | None = None,
    max_new_tokens: Count = 30,
    batch_size: Count = 16,
    checkpoint: PathLike | None = None,
    progress: bool = True,
) -> EditReport:
    """Run prompts before and after each edit, and say what changed, wanted and unwanted.

    Args:
        model: the hooked model, without the edits.
        edits: one edit, or several by name, all about the same words: methods side by side, several penalties (the report
            then draws the frontier). A list of edits under one name are draws, e.g. edits of the random rows that
            `mm.random_units` gives as the control: the report shows how they are distributed.
        targets: prompts whose answers hold the source; one dataset, or several by name: held-out pictures, other prompts,
            captions, the same content in writing. Prompts that do not say the source are counted and left out.
        controls: prompts whose answers should stay; one dataset, or several by name: other objects, scenes without the
            source, neighbouring concepts, captions, questions that name the source. Samples with an `answer` are judged
            against it too.
        consistency: prompts with the `answer` that agrees with the edit, one dataset or several by name: presence of the old
            word and of the new one, reverse look-ups, entailments; those of the lab are `mm.lab.edit_questions(...)`. By
            default "is there a {source}" (no) and "is there a {target}" (yes) about every picture of the targets; `{}` for none.
        matched: how many times each edit is taught again, to random other rows of the same layers, which stand beside it; 0 for
            none. Edits of whole layers, and edits that were read from a file, have none.
        match: what these rows share with the edit's own: how active they are at the last position of the target prompts; or
            another match of `mm.random_units`.
        seed: of these rows.
        source, target: the words, where the edits' provenance does not say them.
        max_new_tokens: length of the answers.
        batch_size: prompts at a time.
        checkpoint: a file that keeps the answers; the same call goes on from it.
        progress: show a progress bar per set.

    Returns:
        The report: prints a table, `.to_frame()` has every prompt, `.plot()` the frontier of success against locality.

    Raises:
        InputError: if the edits are about different words or were made for another model, a set is empty, or a name is in
            both targets and controls.

    Example:
        >>> import mmlens as mm
        >>> asked = model.prepare("where is this", images=scene.image)
        >>> neurons = mm.find_neurons(model, asked, token=scene.place).top(5)
        >>> edit = mm.edits.replace_token(
        ...     model, asked, source=scene.place, target="star", neurons=neurons, method="direct", progress=False
        ... )
        >>> report = mm.edits.edit_report(
        ...     model,
        ...     edit,
        ...     targets=[(scene.image, "where is this")],
        ...     controls=[(scene.image, "how many objects are there")],
        ...     progress=False,
        ... )
        >>> report.success("edit", "targets").mean
        1.0

    Source: the criteria of editing, after Meng et al., "Locating and Editing Factual Associations in GPT", NeurIPS 2022
    (https://arxiv.org/abs/2202.05262), section 3.2. *Departs:* answers are generated, not scored token against token.
    """
    by_name = edits if isinstance(edits, Mapping) else {"edit": edits}
    edits_by_name = {name: [group] if isinstance(group, Edit) else list(group) for name, group in by_name.items()}
    if not edits_by_name or not all(edits_by_name.values()):
        raise InputError("No edits were given to report on.")
    words = _words(edits_by_name, source, target)
    forms = tuple(None if word is None else as_word(model, word) for word in words)
    for edit in (edit for group in edits_by_name.values() for edit in group):
        edit.check(model)
    rule = MATCHES.get(match)
    sets, notes = _prompts(model, {"target": targets, "control": controls, "consistency": consistency}, words)
    facts = {name: _facts(name, group) for name, group in edits_by_name.items()}
    if matched:
        first = next(iter(sets.values()))[1][:batch_size]
        _, prompts = next(batches(model, first, batch_size=batch_size, progress=False))
        edits_by_name, facts = _with_matched(model, edits_by_name, facts, prompts, rule, matched, seed)
    results = Checkpoint(
        checkpoint,
        "edit report",
        lambda exact: run_identity(
            model,
            exact,
            edits_of_the_report={n: [(list(map(str, e.rows)), e.deltas) for e in g] for n, g in edits_by_name.items()},
            words=words,
            settings=[{name: role for name, (role, _) in sets.items()}, max_new_tokens, batch_size],
        ),
    )
    fields_of_cases, form = results.parts.setdefault("cases", []), form_of(EditCase)
    for name, (role, samples) in sets.items():
        work = partial(edit_cases, model, edits_by_name, name, role, forms, max_new_tokens)
        chunks = chunks_of(model, samples, None, batch_size)
        for _, more in shared_chunks(
            model, chunks, work, checkpoint=results, desc=name, total=len(samples), progress=progress
        ):
            fields_of_cases += [form.pack(case, "case", {}) for case in more]
    cases = [form.unpack(fields, "case", {}) for fields in fields_of_cases]
    order = {name: number for number, name in enumerate(edits_by_name)}
    cases.sort(key=lambda case: (order[case.edit], case.draw))  # stable: sets and samples keep their order
    return EditReport(words[0], words[1], tuple(facts.values()), tuple(cases), notes, results.identity)


def _with_matched(
    model: HookedMultimodal,
    edits: Mapping[str, Sequence[Edit]],
    facts: Mapping[str, EditFacts],
    prompts: MultimodalBatch,
    match: Match,
    draws: int,
    seed: int,
) -> tuple[dict[str, list[Edit]], dict[str, EditFacts]]:
    """Edits, each followed by the same of matched rows; several draws are a control themselves."""
    every: dict[str, list[Edit]] = {}
    every_fact: dict[str, EditFacts] = {}
    for name, group in edits.items():
        every[name], every_fact[name] = list(group), facts[name]
        if len(group) > 1:
            continue
        others, how = matched_edits(model, group[0], prompts, match=match, draws=draws, seed=seed)
        every_fact[name] = replace(facts[name], matched_by=how)
        if others:
            control = f"{name}, matched rows"
            every[control] = others
            fact = _facts(control, others)
            every_fact[control] = replace(fact, method=f"{fact.method}, matched rows", control_of=name, matched_by=how)
    return every, every_fact


def _prompts(
    model: HookedMultimodal, prompts: Mapping[Role, Sets | None], words: tuple[str, str | None]
) -> tuple[dict[str, tuple[Role, list[Sample]]], tuple[str, ...]]:
    """The sets of prompts by name, each with its role, the targets first; and what could not be asked, and why."""
    by_role = {
        role: _sets(sets, role)
        for role, sets in prompts.items()
        if sets is not None and (sets or role != "consistency")
    }
    notes: tuple[str, ...] = ()
    if prompts["consistency"] is None and words[1] is not None:
        by_role["consistency"], reason = presence_questions(model, by_role["target"], words[0], words[1])
        notes = (reason,) if reason else ()
    _require_answers(by_role.get("consistency", {}))
    sets = {name: (role, samples) for role, of_role in by_role.items() for name, samples in of_role.items()}
    if len(sets) < sum(map(len, by_role.values())):
        raise InputError(
            "A set of prompts has the same name in two of targets, consistency and controls; name them apart."
        )
    return sets, notes


def _require_answers(sets: Mapping[str, Sequence[Sample]]) -> None:
    without = [name for name, samples in sets.items() if any(sample.answer is None for sample in samples)]
    if without:
        raise InputError(
            f"The consistency sets {without} hold prompts without an answer; give each the answer that agrees with the edit: "
            "mm.Sample(..., answer=...)."
        )


def _words(edits: Mapping[str, Sequence[Edit]], source: str | None, target: str | None) -> tuple[str, str | None]:
    """The words that all edits are about."""
    every = [edit.provenance for group in edits.values() for edit in group]
    about = {(provenance.source, provenance.target) for provenance in every} - {(None, None)}
    if source is None:
        if len(about) != 1:
            raise InputError(
                f"The edits are about {sorted(map(str, about)) or 'no words'}; one report is about one pair: pass source= and "
                "target=."
            )
        ((source, target),) = about
    if source is None:
        raise InputError("The edits do not say which word they are about; pass source= (and target=).")
    return source, target


def _sets(sets: Sets, role: Role) -> dict[str, list[Sample]]:
    """Sets of prompts by name, read."""
    data = (
        sets if isinstance(sets, Mapping) else {role if role == "consistency" else f"{role}s": sets}
    )  # the argument's name
    result = {name: list(as_samples(dataset)) for name, dataset in data.items()}
    empty = [name for name, samples in result.items() if not samples]
    if empty or not result:
        raise InputError(f"The {role} sets {empty or 'given'} hold no prompts.")
    return result


def _facts(name: str, draws: Sequence[Edit]) -> EditFacts:
    settings = draws[0].provenance.settings
    penalty = settings.get("beta") or settings.get("penalty")
    return EditFacts(
        name,
        draws[0].provenance.method,
        len(draws[0].rows),
        sum(edit.size for edit in draws) / len(draws),
        float(penalty) if isinstance(penalty, int | float) else None,
        len(draws),
    )
