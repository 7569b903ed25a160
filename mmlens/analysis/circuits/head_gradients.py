"""Gradients of single heads' queries, keys and values at the stream that their attention receives.

Autograd pulls the gradient of one head back through the whole projection, whose other heads get zeros: as many products of the
whole weight as there are heads. Where a plain linear makes the heads side by side, a head's gradient needs its own rows of the
weight alone. That is tried on the first and the last head; where it is not so, every head takes the long way.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from mmlens.analysis.statistics.rounding import off_by_rounding
from mmlens.architectures.modules import find_module
from mmlens.architectures.tensor_parallel import is_part
from mmlens.models.decoder import attention_of
from mmlens.models.hooked import HookedMultimodal


@dataclass(frozen=True)
class LinearCall:
    """A call of a linear in a run.

    Attributes:
        linear: the module.
        received, made: its input and its output.
    """

    linear: nn.Linear
    received: torch.Tensor
    made: torch.Tensor


@contextmanager
def projection_calls(
    model: HookedMultimodal, projections: Iterable[tuple[str, str]]
) -> Iterator[dict[tuple[str, str], LinearCall]]:
    """The calls of plain linears that make queries, keys and values in the one run inside the `with`.

    Args:
        model: the hooked model.
        projections: the attention, as its hook points' names begin, and `q`, `k` or `v`.
    """
    calls: dict[tuple[str, str], LinearCall] = {}
    again: set[tuple[str, str]] = set()
    with ExitStack() as stack:
        for key in dict.fromkeys(projections):
            weights = attention_of(model, key[0])
            path = getattr(weights.declared, key[1])
            linear = None if path is None else find_module(weights.module, path)
            if type(linear) is not nn.Linear or is_part(linear.weight):  # fused, adapted, quantised, split
                continue

            def keep(module: Any, args: tuple[Any, ...], output: torch.Tensor, key: tuple[str, str] = key) -> None:
                if key in calls or not args:
                    again.add(key)
                else:
                    calls[key] = LinearCall(module, args[0], output)

            stack.callback(linear.register_forward_hook(keep).remove)
        yield calls
    for key in again:
        calls.pop(key, None)


class HeadGradients:
    """Gradients that heads hand to the stream that their attention receives.

    Args:
        state: queries, keys or values.
        stream: what the attention receives.
        gradient: of the metric at `state`.
        axis: of `state` that runs over heads.
        call: of the linear that makes them, if one does.
    """

    def __init__(
        self,
        state: torch.Tensor,
        stream: torch.Tensor,
        gradient: torch.Tensor,
        axis: int,
        call: LinearCall | None,
    ):
        self.state, self.stream, self.gradient, self.axis = state, stream, gradient, axis
        self.call = call
        self.made = self._at_linear()

    def of(self, heads: Sequence[int]) -> list[torch.Tensor] | None:
        """The gradient of each head, of the stream's shape; None if the heads are not made of the stream."""
        gradients_by_head: dict[int, torch.Tensor] = {}
        for head in dict.fromkeys((heads[0], heads[-1])):
            gradient = self._pulled(self.state, self._alone(head))
            if gradient is None:
                return None
            gradients_by_head[head] = gradient
        short = all(_alike(self._short(head), gradient) for head, gradient in gradients_by_head.items())
        for head in heads:
            if head not in gradients_by_head:
                gradient = self._short(head) if short else self._pulled(self.state, self._alone(head))
                gradients_by_head[head] = self.stream.new_zeros(self.stream.shape) if gradient is None else gradient
        return [gradients_by_head[head] for head in heads]

    def _alone(self, head: int) -> torch.Tensor:
        """The gradient of one head, zeros for the others."""
        of_head = torch.zeros_like(self.gradient)
        of_head.select(self.axis, head).copy_(self.gradient.select(self.axis, head))
        return of_head

    def _pulled(self, output: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor | None:
        """A gradient, pulled back to the stream by autograd."""
        return torch.autograd.grad(output, self.stream, gradient, retain_graph=True, allow_unused=True)[0]

    def _at_linear(self) -> torch.Tensor | None:
        """The gradient of all heads where the linear has just made them; None if that is not known."""
        if self.call is None or not self.call.received.requires_grad or not self.call.made.requires_grad:
            return None
        return torch.autograd.grad(self.state, self.call.made, self.gradient, retain_graph=True, allow_unused=True)[0]

    def _short(self, head: int) -> torch.Tensor | None:
        """The gradient of one head, by its own rows of the weight."""
        count = self.state.shape[self.axis]
        if self.call is None or self.made is None or self.made.shape[-1] % count:
            return None
        width = self.made.shape[-1] // count
        rows = slice(head * width, (head + 1) * width)
        projection = self.made[..., rows] @ self.call.linear.weight.detach()[rows]
        return projection if self.call.received is self.stream else self._pulled(self.call.received, projection)


def _alike(found: torch.Tensor | None, expected: torch.Tensor) -> bool:
    """Whether two gradients differ by rounding alone."""
    if found is None or found.shape != expected.shape:
        return False
    return bool((found - expected).norm() <= off_by_rounding(expected.dtype) * expected.norm())
