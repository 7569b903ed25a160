"""A value that an untouched tensor keeps bit for bit, with the gradient of a way to compute it that rounds."""

from typing import Any

import torch


class WithGradientOf(torch.autograd.Function):
    """The first tensor with the gradient of the second, `WithGradientOf.apply(value, target)`; both have one shape."""

    @staticmethod
    def forward(ctx: Any, value: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The value."""
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[None, torch.Tensor]:
        """The gradient, to the target alone."""
        return None, gradients[0]
