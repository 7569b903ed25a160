"""The ways in which a word is written (a blank in front, a capital), and the one that a model takes where it stands."""

from collections.abc import Sequence
from typing import TypeAlias

import torch
from jaxtyping import Float

from mmlens.inputs.batch import MultimodalBatch
from mmlens.models.hooked import HookedMultimodal
from mmlens.models.predicting import last_rows

#: A word in each of its forms as token ids, None where the tokenizer does not know it; an id has one form.
WordForms: TypeAlias = tuple[tuple[int, ...] | None, ...]


def in_form(word: WordForms, form: int) -> tuple[int, ...]:
    """A word in one of its forms, or the first that the tokenizer knows."""
    return (word[form] if form < len(word) else None) or next(ids for ids in word if ids)


@torch.no_grad()
def forms_in_context(
    model: HookedMultimodal, batch: MultimodalBatch, words: Sequence[Sequence[WordForms]]
) -> list[int]:
    """Per sample, the form in which a model is the most likely to say one of its words behind its prompt.

    The first token bounds the probability of a word from above, so that words of several tokens are run only where they may win.

    Args:
        model: the hooked model.
        batch: the prompts.
        words: some words, each in each sample.
    """
    forms = [
        [[in_form(word, number) for word in slot] for slot in words]
        for number in range(max((len(word) for slot in words for word in slot), default=0))
    ]
    if all(form == forms[0] for form in forms):
        return [0] * batch.size
    first = last_rows(model, model(batch), batch).float().cpu().log_softmax(-1)
    begins = torch.tensor([[[word[0] for word in slot] for slot in form] for form in forms])
    bounds = first[torch.arange(len(first)), begins]
    peak = bounds.logsumexp(1)
    if not batch.layout.is_token[:, -1].all():  # nothing can be put behind padding
        short = [all(len(word) == 1 for slot in form for word in slot) for form in forms]
        peak = peak.where(torch.tensor(short)[:, None], -float("inf")) if any(short) else peak
    best, best_value = torch.zeros(batch.size, dtype=torch.long), torch.full((batch.size,), -float("inf"))
    for number in peak.mean(1).argsort(descending=True, stable=True).tolist():
        if (peak[number] > best_value).any():
            words_of_form = zip(forms[number], bounds[number], strict=True)
            values = torch.stack([_log_probability(model, batch, slot, single) for slot, single in words_of_form])
            value = values.logsumexp(0).where(peak[number] > -float("inf"), -float("inf"))
            # forms that are the same count as the first of them, whatever rounding says
            is_better = (value > best_value + 1e-5) | ((value > best_value - 1e-5) & (number < best))
            best, best_value = best.where(~is_better, number), best_value.where(~is_better, value)
    return best.tolist()


def _log_probability(
    model: HookedMultimodal, batch: MultimodalBatch, word: Sequence[tuple[int, ...]], first: torch.Tensor
) -> Float[torch.Tensor, "batch"]:
    """Log-probability of a word in each sample, teacher forced, where that of its first token is known."""
    longest = max(map(len, word))
    if longest == 1:
        return first
    behind = torch.tensor([ids[:-1] + ids[-1:] * (longest - len(ids)) for ids in word])
    run = model.extend(batch, behind, as_new=True)
    rows = last_rows(model, model(run), run, longest).float().cpu().log_softmax(-1)
    return torch.stack([row[range(len(ids)), ids].sum() for row, ids in zip(rows, word, strict=True)])
