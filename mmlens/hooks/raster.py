"""Modules that see a raster of rows cut into windows, and hooks that see the raster."""

from typing import Any

import torch
from torch import nn

from mmlens.core.errors import MMLensError
from mmlens.hooks.attachment import TensorAccess
from mmlens.hooks.site import Tap
from mmlens.hooks.views import StreamShaped


class OutOfWindows(StreamShaped):
    """A tensor that holds windows of a raster, `[window row column d]`; taps see the raster, `[batch row column d]`.

    The windows are put together, and cut again, by the block's own `window_unpartition` and `window_partition` (SAM's
    names). Rows that only fill up the last windows are not shown: the block drops them. A block whose `window_size` is 0
    sees the raster itself.

    Args:
        site: where the tensor is.
        stream: the raster that the block receives.
        block: the block.
    """

    def __init__(self, site: TensorAccess, stream: TensorAccess, block: nn.Module):
        super().__init__(site, stream)
        self.block: Any = block

    def _through(self, tap: Tap, tensor: torch.Tensor) -> torch.Tensor:
        side = self.block.window_size
        if side == 0:
            return tap(tensor)
        if self._shape is None:
            raise MMLensError(f"{type(self.block).__name__} cut its windows before it received the stream.")
        shape = tuple(self._shape[1:3])
        padded_shape = tuple(length + (side - length % side) % side for length in shape)
        raster = self.block.window_unpartition(tensor, side, padded_shape, shape)
        new = tap(raster)
        if new is raster and not new.requires_grad:
            return tensor
        return self.block.window_partition(new, side)[0]
