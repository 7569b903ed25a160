"""Heads that lie side by side in what a linear receives or returns, as hooks see them: apart."""

from dataclasses import dataclass

import torch
from torch import nn

from mmlens.hooks.attachment import TensorAccess
from mmlens.hooks.site import Tap
from mmlens.hooks.views import TensorView


class SideBySide(TensorView):
    """A site whose last axis holds several heads side by side; taps see them apart, `[... head d_head]`.

    Args:
        site: where the tensor is.
        heads: how many.
    """

    def __init__(self, site: "TensorAccess", heads: int):
        super().__init__(site)
        self.heads = heads

    def _through(self, tap: Tap, tensor: torch.Tensor) -> torch.Tensor:
        return tap(tensor.unflatten(-1, (self.heads, -1))).flatten(-2)


@dataclass(frozen=True)
class HeadProjection:
    """Where the heads of queries, keys or values lie in what a linear returns.

    Attributes:
        linear: the linear.
        start, stop: the part of its output.
        d_head: width of a head.
        step: every how many-th head is one.
    """

    linear: nn.Module
    start: int
    stop: int
    d_head: int
    step: int = 1

    @property
    def heads(self) -> int:
        """How many there are."""
        return (self.stop - self.start) // (self.d_head * self.step)

    def of(self, output: torch.Tensor) -> torch.Tensor:
        """The heads `[... head d_head]` in what the linear returned, a view."""
        return output[..., self.start : self.stop].unflatten(-1, (-1, self.d_head))[..., :: self.step, :]


class Projected(TensorView):
    """A linear's output, of which taps see the heads of queries, keys or values, `[... head d_head]`.

    Args:
        site: where the tensor is.
        projection: where the heads lie in it.
    """

    def __init__(self, site: TensorAccess, projection: HeadProjection):
        super().__init__(site)
        self.projection = projection

    def _through(self, tap: Tap, tensor: torch.Tensor) -> torch.Tensor:
        heads = self.projection.of(tensor)
        new = tap(heads)
        if new is heads and not new.requires_grad:
            return tensor
        if heads.numel() == tensor.numel():
            return new.flatten(-2)
        result = tensor.clone()
        self.projection.of(result).copy_(new)
        return result
