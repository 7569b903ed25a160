"""Modules that see a raster of rows cut into windows, and hooks that see the raster."""

from typing import Any

import torch
from torch import nn

from mmlens.core.errors import MMLensError
from mmlens.hooks.attachment import BetweenBranches, TensorAccess
from mmlens.hooks.site import Site, Tap


class OutOfWindows:
    """A tensor that holds windows of a raster, `[window row column d]`; taps see the raster, `[batch row column d]`.

    The windows are put together, and cut again, by the block's own `window_unpartition` and `window_partition` (SAM's
    names). Rows that only fill up the last windows are not shown: the block drops them. A block whose `window_size` is 0
    sees the raster itself.

    Args:
        reach: where the tensor is.
        stream: the raster that the block receives.
        block: the block.
    """

    def __init__(self, reach: TensorAccess, stream: Site, block: nn.Module):
        self.reach = reach
        self.stream = stream
        self.block: Any = block
        self._shape: tuple[int, int] | None = None
        self._taps: dict[Tap, Tap] = {}

    def attach(self, tap: Tap, rank: int) -> None:
        """Show the tap the raster, and give back windows."""

        def through(tensor: torch.Tensor) -> torch.Tensor:
            side = self.block.window_size
            if side == 0:
                return tap(tensor)
            if self._shape is None:
                raise MMLensError(f"{type(self.block).__name__} cut its windows before it received the stream.")
            padded_shape = tuple(length + (side - length % side) % side for length in self._shape)
            raster = self.block.window_unpartition(tensor, side, padded_shape, self._shape)
            new = tap(raster)
            if new is raster and not new.requires_grad:
                return tensor
            return self.block.window_partition(new, side)[0]

        if not self._taps:
            self.stream.attach(self._record, BetweenBranches.RECORD_RANK)
        self._taps[tap] = through
        self.reach.attach(through, rank)

    def detach(self, tap: Tap) -> None:
        """Take the tap out."""
        self.reach.detach(self._taps.pop(tap))
        if not self._taps:
            self.stream.detach(self._record)
            self._shape = None

    def _record(self, stream: torch.Tensor) -> torch.Tensor:
        self._shape = (stream.shape[1], stream.shape[2])
        return stream
