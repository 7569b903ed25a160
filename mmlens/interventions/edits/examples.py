"""The training examples of an edit: the model's own answers, with the source word replaced where it says it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int

from mmlens.core.errors import InputError
from mmlens.core.unit_sets import Units
from mmlens.inputs.batch import MultimodalBatch
from mmlens.models.hooked import HookedMultimodal


@dataclass(frozen=True)
class EditExample:
    """A batch with the answers that an edit should give behind the prompts, teacher-forced.

    Attributes:
        batch: prompts and answers; position `n` predicts token `n + 1`.
        source_places: `(sample, position)` of the logits that say the source now.
        follow_places: `(sample, position)` of the logits behind them, where the target might be said again.
        other_places: `(sample, position)` of all other logits of the answers, which should stay.
        source_log_probabilities, other_log_probabilities: of the unedited model at these places, given the answers as it wrote
            them: what follows the replaced word should be what followed the old one.
    """

    batch: MultimodalBatch
    source_places: Int[torch.Tensor, "spot 2"]
    follow_places: Int[torch.Tensor, "follower 2"]
    other_places: Int[torch.Tensor, "rest 2"]
    source_log_probabilities: Float[torch.Tensor, "spot vocab"] = field(repr=False)
    other_log_probabilities: Float[torch.Tensor, "rest vocab"] = field(repr=False)

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


def edit_examples(
    model: HookedMultimodal,
    batches: Sequence[MultimodalBatch],
    *,
    source: int | None,
    target: int | None,
    max_new_tokens: int,
) -> list[EditExample]:
    """Let the model answer, and write the answers that the edit should give.

    Args:
        model: the hooked model, before the edit.
        batches: prompts.
        source: the token to replace; None for controls, whose answers stay as they are.
        target: the token in its place; None to leave the source in the text (it is only to become unlikely).
        max_new_tokens: length of the answers.

    Raises:
        InputError: if a batch's answers never say the source; they are listed.
    """
    return [_example(model, batch, source, target, max_new_tokens) for batch in batches]


def _example(
    model: HookedMultimodal, batch: MultimodalBatch, source: int | None, target: int | None, max_new_tokens: int
) -> EditExample:
    trace = model.trace_generation(batch, names="hook_logits", max_new_tokens=max_new_tokens)
    steps = trace.tokens.shape[1]
    is_text = torch.arange(steps)[None] < trace.lengths[:, None]
    is_source = torch.zeros_like(is_text) if source is None else is_text & (trace.tokens == source)
    if source is not None and not is_source.any():
        answers = ", ".join(repr(text) for text in trace.text[:4])
        raise InputError(
            f"The model does not say {model.to_string(source).strip()!r} to any prompt of a batch; it says {answers}. Give "
            "prompts whose answers hold the word, or raise max_new_tokens."
        )
    follows = torch.zeros_like(is_source)
    follows[:, 1:] = is_source[:, :-1] & is_text[:, 1:]
    tokens = trace.tokens if target is None else torch.where(is_source, target, trace.tokens)
    before, after = (batch if steps == 1 else model.extend(batch, t[:, :-1]) for t in (trace.tokens, tokens))
    first = torch.tensor([0, _length(after) - steps])  # the position that predicts the first new token
    places, follow_places, other_places = (
        mask.nonzero() + first for mask in (is_source, follows, is_text & ~is_source)
    )
    with torch.no_grad():
        logits = model(before)
    now = (at(logits, places), at(logits, other_places))
    return EditExample(after, places, follow_places, other_places, *now)


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
