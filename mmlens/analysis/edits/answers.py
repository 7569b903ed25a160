"""Answers of a batch before and after every edit, and what became of the words."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from mmlens.analysis.edits.cases import EditCase, Role
from mmlens.analysis.samples.chunks import DataChunk
from mmlens.core.answer_text import is_answer
from mmlens.interventions.edits.edit import Edit
from mmlens.interventions.edits.examples import WordForms, form_said, in_form, replaced, starts_of
from mmlens.models.generation import GenerationTrace
from mmlens.models.hooked import HookedMultimodal


@torch.no_grad()
def edit_cases(
    model: HookedMultimodal,
    edits: Mapping[str, Sequence[Edit]],
    group: str,
    role: Role,
    forms: tuple[WordForms | None, ...],
    max_new_tokens: int,
    chunk: DataChunk,
) -> list[EditCase]:
    """Every sample of a batch before and after every edit.

    Args:
        model: the hooked model.
        edits: by name, each as several draws.
        group, role: name of the set of prompts, and what is to become of its answers.
        forms: the ways to write the source and the target.
        max_new_tokens: length of the answers.
        chunk: the samples.
    """
    batch = chunk.batch

    def answers() -> GenerationTrace:
        return model.trace_generation(batch, names="hook_logits", max_new_tokens=max_new_tokens)

    def told_again(now: GenerationTrace) -> torch.Tensor:
        """Log-probabilities `[batch step vocab]` at the steps of the answers before, whatever is answered now."""
        if torch.equal(now.tokens, before.tokens):
            return now.logits.float().log_softmax(-1)
        steps = before.tokens.shape[1]
        longer = batch if steps == 1 else model.extend(batch, before.tokens[:, :-1])
        return model(longer)[:, -steps:].float().log_softmax(-1)

    before = answers()
    old = told_again(before)
    cases = []
    for name, draw, edit in (
        (name, draw, edit) for name, edit_draws in edits.items() for draw, edit in enumerate(edit_draws)
    ):
        with model.edited(edit):
            after = answers()
            new = told_again(after)
        kl = (old.exp() * (old - new)).sum(-1)
        for n, sample in enumerate(chunk.samples):
            length = int(before.lengths[n])
            tokens = before.tokens[n, :length].tolist()
            now = after.tokens[n, : int(after.lengths[n])].tolist()
            right = None
            if sample.answer is not None:
                right = (is_answer(before.text[n], sample.answer), is_answer(after.text[n], sample.answer))
            fields = dict(_CONTROL)
            if role == "target":
                fields = _target_fields(model, tokens, now, old[n], new[n], forms)
            elif role == "consistency" and right is not None:
                fields |= {"wanted": _first(sample.answer), "success": right[1]}
            cases.append(EditCase(
                name, role, group, sample.shown, sample.prompt, before.text[n], after.text[n],
                kl=float(kl[n, :length].mean()), right=right, draw=draw, **fields,
            ))  # fmt: skip
    return cases


def _first(answer: str | tuple[str, ...] | None) -> str | None:
    return answer if answer is None or isinstance(answer, str) else answer[0]


#: What a control has no value for.
_CONTROL: dict[str, Any] = {"wanted": None, "said_before": False, "success": None}


def _target_fields(
    model: HookedMultimodal,
    tokens: list[int],
    now: list[int],
    old: torch.Tensor,
    new: torch.Tensor,
    forms: tuple[WordForms | None, ...],
) -> dict[str, Any]:
    """What became of the source in one answer, given the tokens and log-probabilities `[step vocab]` before and after."""
    source, target = forms
    form = None if source is None else form_said([tokens], source)
    if source is None or form is None:
        return {"wanted": None, "said_before": False, "success": None}
    old_word = in_form(source, form)
    new_word = None if target is None else in_form(target, form)
    step = starts_of(tokens, old_word)[0]

    def count(answer: list[int], word: WordForms) -> int:
        return sum(len(starts_of(answer, ids)) for ids in set(word) if ids)

    text = None if new_word is None else model.decode(torch.tensor([replaced(tokens, old_word, new_word)]))[0]
    there = target is None or count(now, target) > count(tokens, target)

    def pair(word: tuple[int, ...] | None) -> tuple[float, float] | None:
        return None if word is None else (float(old[step, word[0]].exp()), float(new[step, word[0]].exp()))

    return {
        "wanted": text,
        "said_before": True,
        "success": not count(now, source) and there,
        "p_source": pair(old_word),
        "p_target": pair(new_word),
    }
