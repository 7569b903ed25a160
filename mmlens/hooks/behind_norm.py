"""The stream as one of several branches receives it that share a norm, or whose norm no hook point knows."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from mmlens.hooks.site import Tap


class BehindNorm:
    """The input of a norm, as some of the modules behind it receive it.

    A tap sees what the norm received. Where it gives something else, or a gradient is asked for, these modules get the norm of
    that, in the place of what the norm returned; all others get what they would have got.

    Args:
        norm: the norm.
        receivers: the modules; those that get something else than what the norm returned are left alone.
    """

    def __init__(self, norm: nn.Module, receivers: Sequence[nn.Module]):
        self.norm = norm
        self.receivers = tuple(receivers)
        self._received: torch.Tensor | None = None
        self._returned: torch.Tensor | None = None
        self._handles: dict[Tap, list[RemovableHandle]] = {}

    def attach(self, tap: Tap) -> None:
        """Put the tap between the norm and the modules."""
        outputs: list[torch.Tensor] = []

        def record(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: torch.Tensor) -> None:
            outputs.clear()
            self._received = args[0] if args else next(iter(kwargs.values()))
            self._returned = output

        def inputs(value: Any) -> Any:
            if self._received is None or self._returned is None or value is not self._returned:
                return value
            if not outputs:
                new = tap(self._received)
                # past the hooks of the norm: it has run, and this is no run of its own
                outputs.append(value if new is self._received else self.norm.forward(new))
            return outputs[0]

        def receive(
            module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
        ) -> tuple[tuple[Any, ...], dict[str, Any]]:
            return tuple(map(inputs, args)), {name: inputs(value) for name, value in kwargs.items()}

        self._handles[tap] = [
            self.norm.register_forward_hook(record, with_kwargs=True),
            *(module.register_forward_pre_hook(receive, with_kwargs=True) for module in self.receivers),
        ]

    def detach(self, tap: Tap) -> None:
        """Take the tap out."""
        for handle in self._handles.pop(tap):
            handle.remove()
        self._received = self._returned = None
