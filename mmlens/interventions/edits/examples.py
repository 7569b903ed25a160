"""The training examples of an edit: the model's own answers, with the source word replaced where it says it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from jaxtyping import Float, Int

from mmlens.core.errors import InputError
from mmlens.core.unit_sets import Units
from mmlens.inputs.batch import MultimodalBatch
from mmlens.models.hooked import HookedMultimodal
from mmlens.models.word_forms import WordForms, forms_in_context, in_form


@dataclass(frozen=True)
class EditExample:
    """A batch with the answers that an edit should give behind the prompts, teacher-forced.

    Attributes:
        batch: prompts and answers; position `n` predicts token `n + 1`.
        source_places: `(sample, position)` of the logits that say the source now: of each token of the target; of the source's
            first one where no word takes its place.
        place_tokens: the token that is wanted at each of them, or is not to be said there.
        follow_places: `(sample, position)` of the logits behind them, where the target might be said again.
        other_places: `(sample, position)` of all other logits of the answers, which should stay.
        source_log_probabilities, other_log_probabilities: of the unedited model where the source begins, and at the other
            places, given the answers as it wrote them: what follows the replaced word should be what followed the old one.
    """

    batch: MultimodalBatch
    source_places: Int[torch.Tensor, "spot 2"]
    place_tokens: Int[torch.Tensor, "spot"]
    follow_places: Int[torch.Tensor, "follower 2"]
    other_places: Int[torch.Tensor, "rest 2"]
    source_log_probabilities: Float[torch.Tensor, "word vocab"]
    other_log_probabilities: Float[torch.Tensor, "rest vocab"]

    @property
    def steps(self) -> Int[torch.Tensor, "spot"]:
        """Which of a word's tokens is wanted at each of `source_places`, counted from 0."""
        count = len(self.source_places) // max(len(self.source_log_probabilities), 1)
        return torch.arange(len(self.source_places)) % max(count, 1)

    def __repr__(self) -> str:
        change, keep = len(self.source_places), len(self.other_places)
        return f"EditExample({self.batch.size} samples, {change} places to change, {keep} to keep)"


def as_batches(
    batches: MultimodalBatch | Iterable[MultimodalBatch], argument: str, *, needed_for: str | None = None
) -> list[MultimodalBatch]:
    """One batch or several, as a list.

    Args:
        batches: what the caller gave.
        argument: its name.
        needed_for: what there must be at least one for; None if there may be none.

    Raises:
        InputError: for anything else; for none where one is needed.
    """
    batch_list = [batches] if isinstance(batches, MultimodalBatch) else list(batches)
    wrong = sorted({type(batch).__name__ for batch in batch_list if not isinstance(batch, MultimodalBatch)})
    if wrong:
        raise InputError(f"{argument} must be batches from model.prepare(...), found {', '.join(wrong)}.")
    if needed_for is not None and not batch_list:
        raise InputError(f"No {argument} were given {needed_for}.")
    return batch_list


def as_token(model: HookedMultimodal, word: str | int) -> int:
    """The id of a word that is one token; ids pass.

    Raises:
        InputError: if it is several tokens, or no id of the vocabulary.
    """
    token = model.to_single_token(word) if isinstance(word, str) else int(word)
    size = model.W_U.shape[1]
    if not 0 <= token < size:
        raise InputError(f"Token {token} is outside the vocabulary, whose ids go from 0 to {size - 1}.")
    return token


def as_word(model: HookedMultimodal, word: str | int) -> WordForms:
    """A word as the tokenizer makes it, in each way in which a model may write it; an id is one token.

    Raises:
        InputError: if the tokenizer does not know it, or it is no id of the vocabulary.
    """
    return model.to_word_forms(word) if isinstance(word, str) else ((as_token(model, word),),)


def starts_of(tokens: Sequence[int], word: Sequence[int]) -> list[int]:
    """Where a word begins in a row of tokens; occurrences do not overlap."""
    starts: list[int] = []
    for start in range(len(tokens) - len(word) + 1):
        if tuple(tokens[start : start + len(word)]) == tuple(word) and (not starts or start >= starts[-1] + len(word)):
            starts.append(start)
    return starts


def replaced(tokens: Sequence[int], old: Sequence[int], new: Sequence[int]) -> list[int]:
    """A row of tokens with one word in the place of another."""
    return _rewritten(list(tokens), old, new).tokens


def form_said(rows: Iterable[Sequence[int]], word: WordForms) -> int | None:
    """The first form of a word that is said in some rows of tokens; None if none is."""
    row_list = list(rows)
    return next(
        (number for number, form in enumerate(word) if form and any(starts_of(row, form) for row in row_list)), None
    )


def edit_examples(
    model: HookedMultimodal,
    batches: Sequence[MultimodalBatch],
    *,
    source: WordForms | None,
    target: WordForms | None,
    max_new_tokens: int,
) -> list[EditExample]:
    """Let the model answer, and write the answers that the edit should give.

    Args:
        model: the hooked model, before the edit.
        batches: prompts.
        source: the word to replace, in the form in which a batch's answers say it; None for controls, whose answers stay.
        target: the word in its place, in the same form; None to leave the source in the text (it is only to become unlikely).
        max_new_tokens: length of the answers.

    Raises:
        InputError: if a batch's answers never say the source; they are listed.
    """
    return [_example(model, batch, source, target, max_new_tokens) for batch in batches]


def _example(
    model: HookedMultimodal,
    batch: MultimodalBatch,
    source: WordForms | None,
    target: WordForms | None,
    max_new_tokens: int,
) -> EditExample:
    trace = model.trace_generation(batch, names="hook_logits", max_new_tokens=max_new_tokens)
    said = [row[:length] for row, length in zip(trace.tokens.tolist(), trace.lengths.tolist(), strict=True)]
    form = None if source is None else form_said(said, source)
    if source is not None and form is None:
        answers = ", ".join(repr(text) for text in trace.text[:4])
        raise InputError(
            f"The model does not say {model.to_string(list(in_form(source, 0))).strip()!r} to any prompt of a batch; it says "
            f"{answers}. Give prompts whose answers hold the word, or raise max_new_tokens."
        )
    old = () if source is None else in_form(source, form or 0)
    new = None if target is None else in_form(target, form or 0)
    rows = [_rewritten(row, old, new) for row in said]
    steps, longer = trace.tokens.shape[1], max(trace.tokens.shape[1], *(len(row.tokens) for row in rows))
    padding = trace.tokens[:, -1:].tolist()
    tokens = [
        row.tokens + (own[len(own_said) :] + pad * longer)[: longer - len(row.tokens)]
        for row, own, own_said, pad in zip(rows, trace.tokens.tolist(), said, padding, strict=True)
    ]
    before = batch if steps == 1 else model.extend(batch, trace.tokens[:, :-1])
    after = batch if longer == 1 else model.extend(batch, torch.tensor(tokens)[:, :-1])
    # the position that predicts the first new token
    first, first_after = _length(before) - steps, _length(after) - longer

    def places(name: str, start: int) -> torch.Tensor:
        spots = [(sample, start + step) for sample, row in enumerate(rows) for step in getattr(row, name)]
        return torch.tensor(spots, dtype=torch.long).reshape(-1, 2)

    with torch.no_grad():
        logits = model(before)
    return EditExample(
        after,
        places("spots", first_after),
        torch.tensor([token for row in rows for token in row.wanted], dtype=torch.long),
        places("followers", first_after),
        places("rest", first_after),
        at(logits, places("words", first)),
        at(logits, places("rest_before", first)),
    )


#: Prompts with the answer that each is to get.
AnsweredBatch: TypeAlias = tuple[MultimodalBatch, Sequence[str]]


def answered_examples(model: HookedMultimodal, answered: Sequence[AnsweredBatch]) -> list[EditExample]:
    """Examples of answers that are given as text: every token of them is wanted.

    Args:
        model: the hooked model, before the edit.
        answered: batches with one answer per sample.

    Raises:
        InputError: for another number of answers than samples, or answers that the tokenizer does not know; before any run.
    """
    answers = []
    for batch, texts in answered:
        if len(texts) != batch.size or not all(texts):
            raise InputError(f"A batch of {batch.size} samples needs as many answers, found {list(texts)}.")
        answers.append([as_word(model, text) for text in texts])
    return [_answered(model, batch, words) for (batch, _), words in zip(answered, answers, strict=True)]


def _answered(model: HookedMultimodal, batch: MultimodalBatch, words: Sequence[WordForms]) -> EditExample:
    forms = forms_in_context(model, batch, [words])
    rows = [in_form(word, form) for word, form in zip(words, forms, strict=True)]
    longest = max(map(len, rows))
    tokens = torch.tensor([[*row, *[row[-1]] * (longest - len(row))] for row in rows])
    full_batch = batch if longest == 1 else model.extend(batch, tokens[:, :-1])
    start = _length(full_batch) - longest
    places = [(sample, start + step) for sample, row in enumerate(rows) for step in range(len(row))]
    no_places, no_logits = torch.zeros(0, 2, dtype=torch.long), torch.zeros(0, model.W_U.shape[1])
    targets = torch.tensor([token for row in rows for token in row])
    return EditExample(full_batch, torch.tensor(places), targets, no_places, no_places, no_logits, no_logits)


@dataclass(frozen=True)
class _Rewritten:
    """An answer with a word replaced, and where its parts are, in steps.

    Attributes:
        tokens: of the answer after.
        spots, wanted: the steps that say the new word, and the token of each.
        followers: the steps behind it.
        rest: all other steps.
        words, rest_before: where the old word began, and the other steps, in the answer before.
    """

    tokens: list[int]
    spots: list[int]
    wanted: list[int]
    followers: list[int]
    rest: list[int]
    words: list[int]
    rest_before: list[int]


def _rewritten(answer: list[int], old: Sequence[int], new: Sequence[int] | None) -> _Rewritten:
    """An answer with one word in the place of another; with the old one left in the text if there is no new one."""
    starts = starts_of(answer, old) if old else []
    row = _Rewritten([], [], [], [], [], starts, [])
    step = 0
    while step < len(answer):
        here = len(row.tokens)
        if step in starts:
            word = old if new is None else new
            changes = word[:1] if new is None else word
            row.spots.extend(range(here, here + len(changes)))
            row.wanted.extend(changes)
            row.tokens.extend(word)
            step += len(old)
            if step < len(answer):
                row.followers.append(len(row.tokens))
        else:
            row.rest.append(here)
            row.rest_before.append(step)
            row.tokens.append(answer[step])
            step += 1
    return row


def _length(batch: MultimodalBatch) -> int:
    """Number of positions that predict tokens: the decoder's in an encoder-decoder model."""
    return batch.inputs.get("decoder_input_ids", batch["input_ids"]).shape[1]


def at(
    logits: Float[torch.Tensor, "batch pos vocab"], places: Int[torch.Tensor, "place 2"]
) -> Float[torch.Tensor, "place vocab"]:
    """Log-probabilities at `(sample, position)` places, in float32."""
    where = places.to(logits.device)
    return logits[where[:, 0], where[:, 1]].float().log_softmax(-1)


@torch.no_grad()
def activity_at(
    model: HookedMultimodal, batch: MultimodalBatch, places: Int[torch.Tensor, "place 2"], rows: Units
) -> Float[torch.Tensor, "place row"]:
    """What multiplies each row, the input of its down projection, at `(sample, position)` places; on the CPU, float32."""
    numbers: dict[str, list[int]] = {}
    for number, neuron in enumerate(rows):
        numbers.setdefault(neuron.hook, []).append(number)
    activity = torch.zeros(len(places), len(rows))

    def keep(activation: torch.Tensor, hook: Any) -> None:
        here = numbers[hook.name]
        where = places.to(activation.device)
        states = activation[where[:, 0], where[:, 1]]
        activity[:, here] = states[:, [rows[n].index for n in here]].float().cpu()

    model.run_with_hooks(batch, fwd_hooks=[(list(numbers), keep)])
    return activity
