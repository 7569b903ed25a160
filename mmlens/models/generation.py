"""Generation, and the states that predicted each generated token."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int

from mmlens.core.errors import InputError
from mmlens.core.names import Names
from mmlens.hooks.nodes import Node, Selection
from mmlens.hooks.point import reads_only
from mmlens.inputs.batch import MultimodalBatch
from mmlens.models.protocol import HookedModel


@dataclass(frozen=True)
class GenerationTrace:
    """Generated tokens and, for each, the states that predicted it.

    Attributes:
        tokens: the new tokens; samples that ended early are padded.
        lengths: number of new tokens per sample, the end token included.
        states: by hook name, `[batch step ...]`: the point's tensor at the position that predicted token `step`. For
            points with an axis of keys, whose size grows, a list with one tensor per step.
        logits: the logits that each token was chosen from.
        words: the new tokens as strings, per sample, up to its length.
        text: the generated text per sample, without special tokens.
    """

    tokens: Int[torch.Tensor, "batch step"]
    lengths: Int[torch.Tensor, "batch"]
    states: dict[str, Any]
    logits: Float[torch.Tensor, "batch step vocab"]
    words: list[list[str]]
    text: list[str]

    def __repr__(self) -> str:
        return f"GenerationTrace: {self.text!r}, {self.tokens.shape[1]} steps, states of {len(self.states)} points"

    def __getitem__(self, name: str) -> Any:
        if name not in self.states:
            raise InputError(f"The trace holds no {name!r}; it was taken at {', '.join(self.states)}.")
        return self.states[name]


def trace_generation(
    model: HookedModel,
    batch: MultimodalBatch,
    *,
    names: Names | Selection,
    max_new_tokens: int,
    use_cache: bool,
) -> GenerationTrace:
    """Generate greedily and record; see `HookedMultimodal.trace_generation`."""
    nodes = model.graph.select(names)
    _refuse_untraceable(nodes, model.graph["hook_logits"].sequence)
    if max_new_tokens < 1:
        raise InputError(f"max_new_tokens={max_new_tokens} must be at least 1.")
    refuse_right_padding(batch.layout.is_token)
    steps: dict[str, list[torch.Tensor]] = {node.name: [] for node in nodes}
    axes = {node.name: node.position_axis for node in nodes}

    @reads_only
    def keep(activation: torch.Tensor, hook: Any) -> None:
        # with a KV cache a step sees one new position, without one it sees all: the last predicts the next token
        steps[hook.name].append(activation.detach().select(axes[hook.name], -1).clone())

    with model.hooks([(nodes.names, keep)]):
        out = model.generate(
            batch,
            max_new_tokens=max_new_tokens,
            use_cache=use_cache,
            return_dict_in_generate=True,
            output_logits=True,
        )
    n_steps = len(out.logits)
    tokens = out.sequences[:, -n_steps:].cpu()
    lengths = _lengths(tokens, model.stop_tokens)
    written = {token: model.to_string(token) for token in tokens.unique().tolist()}
    words = [
        [written[token] for token in row[:length]]
        for row, length in zip(tokens.tolist(), lengths.tolist(), strict=True)
    ]
    return GenerationTrace(
        tokens=tokens,
        lengths=lengths,
        states={name: _stacked(states) for name, states in steps.items()},
        logits=torch.stack(out.logits, dim=1),
        words=words,
        text=model.decode(tokens),
    )


def refuse_right_padding(is_token: torch.Tensor) -> None:
    """Check that every sample's last position holds a token.

    Args:
        is_token: `[batch pos]`, true where there is one.

    Raises:
        InputError: if some are padded on the right.
    """
    samples = (~is_token[:, -1].bool()).nonzero().flatten().tolist()
    if samples:
        raise InputError(
            f"Samples {samples} are padded on the right, so their next token would follow padding; "
            "prepare(..., padding_side='left') to generate."
        )


def _refuse_untraceable(nodes: Sequence[Node], point: str) -> None:
    """Refuse points that do not live on the sequence whose positions predict tokens, or that run over keys."""
    wrong = [node.name for node in nodes if node.sequence != point]
    if wrong:
        raise InputError(
            f"{', '.join(wrong[:4])}{' ...' if len(wrong) > 4 else ''} do not live on the positions that predict tokens: the "
            "picture (and an encoder's prompt) is read once, before the first one. Read them with run_with_cache."
        )
    keys = [node.name for node in nodes if node.axes.split()[node.position_axis] == "key"]
    if keys:
        raise InputError(
            f"{', '.join(keys[:4])} run over all keys so far, not over the predicting position; read them with run_with_cache."
        )


def _lengths(tokens: torch.Tensor, stops: set[int]) -> torch.Tensor:
    """New tokens per sample, up to and including the first end token."""
    is_stop = (
        torch.isin(tokens, torch.tensor(sorted(stops), dtype=tokens.dtype))
        if stops
        else torch.zeros_like(tokens).bool()
    )
    first = is_stop.int().argmax(1) + 1
    return torch.where(is_stop.any(1), first, tokens.shape[1])


def _stacked(states: list[torch.Tensor]) -> torch.Tensor | list[torch.Tensor]:
    return torch.stack(states, dim=1) if len({state.shape for state in states}) == 1 else states
