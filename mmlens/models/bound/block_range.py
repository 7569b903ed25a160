"""The blocks that run in a bound model: where a run begins and ends, and which hooks lie in between."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from mmlens.core.errors import InputError
from mmlens.hooks.session import HookFunction
from mmlens.inputs.batch import MultimodalBatch
from mmlens.models.bound.loss import target_ids
from mmlens.models.protocol import HookedModel


@dataclass(frozen=True)
class BlockRange:
    """The blocks that run, all by default.

    Attributes:
        model: the hooked model.
        start: the block that a stream enters; None if the run begins at its inputs.
        stop: the block in front of which it ends, the number of blocks for the end of the last; None if it goes on to the logits.
    """

    model: HookedModel
    start: int | None
    stop: int | None

    @classmethod
    def of(cls, model: HookedModel, start_at_layer: int | None, stop_at_layer: int | None) -> "BlockRange":
        """The blocks that TransformerLens's arguments mean, negative numbers counted from the last.

        Raises:
            InputError: if there is no such block.
        """
        depth = model.cfg.n_layers
        start = None if start_at_layer is None else _number(start_at_layer, "start_at_layer", depth, depth)
        stop = None if stop_at_layer is None else _number(stop_at_layer, "stop_at_layer", depth, depth + 1)
        return cls(model, start, stop)

    @property
    def end(self) -> str | None:
        """The point at which the run ends: the input of a block, or the output of the last; None at the logits."""
        if self.stop is None:
            return None
        return (
            _entering(self.stop) if self.stop < self.model.cfg.n_layers else f"blocks.{self.stop - 1}.hook_resid_post"
        )

    def within(self, hooks: Sequence[tuple[str, HookFunction]]) -> list[tuple[str, HookFunction]]:
        """Those of some hooks, by name, whose points lie in the blocks that run."""
        if self.start is None and self.stop is None:
            return list(hooks)
        order = {name: number for number, name in enumerate(self.model.graph.names)}
        first = 0 if self.start is None else order[_entering(self.start)]
        goes_on = self.stop is None or self.stop == self.model.cfg.n_layers
        last = len(order) if goes_on else order[_entering(self.stop)] - 1

        def place(name: str) -> int:
            """Of a point that the graph does not have: that of the norm's scale, or of the stream that it copies."""
            near = (name, name.replace("normalized", "scale"), f"{'.'.join(name.split('.')[:2])}.hook_resid_pre")
            return next(order[candidate] for candidate in near if candidate in order)

        return [(name, function) for name, function in hooks if first <= place(name) <= last]


def stream_for(model: HookedModel, batch: MultimodalBatch, stream: Any) -> torch.Tensor:
    """The stream `[batch pos d_model]` that a block is to receive, of one sample also without its batch axis.

    Raises:
        InputError: if it is not of the batch's shape.
    """
    shape = [*target_ids(batch).shape, model.cfg.d_model]
    tensor = stream[None] if isinstance(stream, torch.Tensor) and stream.ndim == 2 else stream
    if not isinstance(tensor, torch.Tensor) or not tensor.is_floating_point() or list(tensor.shape) != shape:
        description = list(stream.shape) if isinstance(stream, torch.Tensor) else type(stream).__name__
        raise InputError(
            f"start_at_layer takes the stream of the batch that this model is bound to, {shape} [batch pos d_model], found "
            f"{description}; cache['resid_pre', layer] of a run is one."
        )
    return tensor


def _entering(layer: int | None) -> str:
    return f"blocks.{layer}.hook_resid_pre"


def _number(layer: int, argument: str, depth: int, count: int) -> int:
    """A block's number, counted from the first.

    Raises:
        InputError: if there is no such block.
    """
    if isinstance(layer, bool) or not isinstance(layer, int) or not -depth <= layer < count:
        raise InputError(f"{argument}={layer!r} must be a block, 0 to {count - 1}, or -{depth} to -1 from the end.")
    return layer + depth if layer < 0 else layer
