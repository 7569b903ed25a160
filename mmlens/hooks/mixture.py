"""Inside a mixture of experts: the logits that its router chooses by, and rows that it lays out in one axis."""

import copy
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from mmlens.core.errors import MMLensError, UnsupportedModelError
from mmlens.hooks.site import Tap
from mmlens.hooks.views import StreamShaped


class RouterLogits:
    """The logits by which a router chooses experts, where it makes the choice itself.

    Such a router returns its logits beside the experts and weights that it chose by them, as a record that nothing
    reads. Here new logits make it choose anew, so that an edit has the meaning of the name.

    Args:
        router: the module; it computes its logits with a linear of its own weight.
        item: which item of what it returns are the logits, `[row expert]`.
    """

    def __init__(self, router: nn.Module, item: int):
        experts, width = router.get_parameter("weight").shape
        if experts > width:
            raise UnsupportedModelError(
                f"{type(router).__name__} has {experts} experts for rows of width {width}; its choice can only be made anew "
                "for up to as many experts as the rows are wide. Declare the mixture without a router."
            )
        self.router = router
        self.item = item
        self._factor: float | None = None
        self._handles: dict[Tap, RemovableHandle] = {}

    def attach(self, tap: Tap, rank: int) -> None:
        """Pass the logits through the tap, and choose by what it gives."""

        def choose(
            module: nn.Module, args: tuple[torch.Tensor, ...], output: tuple[torch.Tensor, ...]
        ) -> tuple[torch.Tensor, ...] | None:
            logits = output[self.item]
            new = tap(logits)
            return None if new is logits else self._choice(new, args[1:])

        self._handles[tap] = self.router.register_forward_hook(choose, prepend=True)

    def detach(self, tap: Tap) -> None:
        """Take the tap out."""
        self._handles.pop(tap).remove()

    def _choice(self, logits: torch.Tensor, more: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        """What the router returns for given logits: it runs on them, with the identity as its weight.

        Some routers multiply what their linear gives by a number; their identity is that much smaller.

        Args:
            logits: `[row expert]`.
            more: what it was called with besides the rows.
        """
        if self._factor is None:
            self._factor = float(self._run(torch.ones_like(logits[:1]), more, 1.0)[self.item].flatten()[0])
        return self._run(logits, more, 1.0 / self._factor)

    def _run(self, rows: torch.Tensor, more: tuple[torch.Tensor, ...], weight: float) -> tuple[torch.Tensor, ...]:
        """What the router returns for rows `[row expert]`, with so many times the identity as its weight."""
        parameters: dict[str, Any] = dict(self.router._parameters)
        experts, width = parameters["weight"].shape
        parameters["weight"] = (weight * torch.eye(experts, width)).to(rows)
        if parameters.get("bias") is not None:
            parameters["bias"] = torch.zeros_like(parameters["bias"])
        twin = copy.copy(self.router)
        twin._parameters = parameters
        # the class's own function: an instance's may be wrapped by whoever places the model on its devices
        return type(twin).forward(twin, nn.functional.pad(rows, (0, width - experts)), *more)


class Unflattened(StreamShaped):
    """A tensor whose rows a mixture may lay out in one axis for all samples; taps see them as the stream has them."""

    def _through(self, tap: Tap, tensor: torch.Tensor) -> torch.Tensor:
        if self._shape is None:
            raise MMLensError("A mixture of experts ran before its block received the stream.")
        rows = tensor.reshape(*self._shape[:-1], tensor.shape[-1])
        new = tap(rows)
        # back through the same views if gradients flow, so that what a hook was shown has one
        return tensor if new is rows and not new.requires_grad else new.reshape(tensor.shape)
