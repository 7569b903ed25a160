"""Tensors that are split over processes: hooks see the whole, and each process goes on with its part of what they leave.

Only while a hook is attached: gathering is a call of all processes, which therefore must attach the same hooks and run the
same batches. Gradients pass: that of the whole is the same in every process.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from mmlens.hooks.attachment import TensorAccess
from mmlens.hooks.site import Tap
from mmlens.hooks.views import TensorView

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh


@dataclass(frozen=True)
class Split:
    """How tensors of one kind are split.

    Attributes:
        mesh: gives the processes that hold the parts, in their order; asked for when a hook runs, since weights come later.
        size: of the whole along the axis that is split; None where all parts are of one size.
    """

    mesh: Callable[[], "DeviceMesh"]
    size: int | None = None

    def through(self, tap: Tap, axis: int, part: torch.Tensor) -> torch.Tensor:
        """Show a tap the whole, and give back this process's part of what it returns.

        Args:
            tap: the tap.
            axis: along which the tensor is split, counted from its end.
            part: this process's part.
        """
        from torch.distributed.tensor import DTensor, Replicate, Shard

        mesh, dim = self.mesh(), part.ndim + axis
        shape = None if self.size is None else torch.Size((*part.shape[:dim], self.size, *part.shape[dim + 1 :]))
        stride = None if shape is None else torch.empty(shape, device="meta").stride()
        parts = DTensor.from_local(part.contiguous(), mesh, [Shard(dim)], run_check=False, shape=shape, stride=stride)
        tensor = parts.full_tensor()
        new = tap(tensor)
        if new is tensor and not new.requires_grad:
            return part
        again = DTensor.from_local(new, mesh, [Replicate()], run_check=False)
        return again.redistribute(placements=[Shard(dim)]).to_local()


class WholeOf(TensorView):
    """A site whose tensor is split along its last axis; taps see the whole.

    Args:
        site: where the part is.
        split: how it is split.
    """

    def __init__(self, site: TensorAccess, split: Split):
        super().__init__(site)
        self.split = split

    def _through(self, tap: Tap, tensor: torch.Tensor) -> torch.Tensor:
        return self.split.through(tap, -1, tensor)
