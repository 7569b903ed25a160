"""Each head's own copy of what attention reads, and each head's own output: points that exist only while they are hooked.

    blocks.2.hook_q_input  blocks.2.hook_k_input  blocks.2.hook_v_input  blocks.2.hook_attn_in     blocks.2.attn.hook_result

A head's input is the stream in front of the norm, once for each head; what a hook leaves of it goes through the norm and the
head's own part of the projection. A head's output is what it writes through `W_O`, before all are summed.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from mmlens.core.errors import MMLensError
from mmlens.hooks.heads import HeadProjection
from mmlens.hooks.site import Tap


class HeadInputs:
    """The stream that each head of queries, keys or values reads, `[batch pos head d_model]`, in front of the norm.

    Where a hook changes it, or a gradient is asked for, every head is projected anew from its own; a run that leaves it alone
    is the model's.

    Args:
        norm: the norm in front of the attention.
        projections: where the heads that read it are made; several read one stream each by its number where all of queries, keys
            and values do (grouped heads are fewer, and read the first ones).
    """

    def __init__(self, norm: nn.Module, projections: Sequence[HeadProjection]):
        self.norm = norm
        self.projections = tuple(projections)
        self._received: torch.Tensor | None = None
        self._streams: torch.Tensor | None = None
        self._changed = False
        self._handles: dict[Tap, list[RemovableHandle]] = {}

    def attach(self, tap: Tap) -> None:
        """Put the tap in front of the heads."""
        heads = max(projection.heads for projection in self.projections)

        def receive(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._received = args[0] if args else next(iter(kwargs.values()))
            self._streams = None

        def project(projection: HeadProjection) -> Callable[..., torch.Tensor | None]:
            def put(module: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor | None:
                if self._received is None:
                    raise MMLensError(
                        "An attention ran before the norm in front of it; its heads' inputs have no value."
                    )
                if self._streams is None:
                    copies = self._received.unsqueeze(-2).expand(*self._received.shape[:-1], heads, -1)
                    new = tap(copies)
                    self._streams = new
                    self._changed = new.requires_grad or not (new is copies or torch.equal(new, copies))
                return self._projected(projection, output) if self._changed else None

            return put

        self._handles[tap] = [
            self.norm.register_forward_pre_hook(receive, with_kwargs=True),
            *(p.linear.register_forward_hook(project(p), prepend=True) for p in self.projections),
        ]

    def _projected(self, projection: HeadProjection, output: torch.Tensor) -> torch.Tensor:
        """What the linear returns if each head reads its own stream."""
        if self._streams is None:
            return output
        moved = output.clone()
        heads = projection.of(moved)
        for head in range(projection.heads):
            # past the hooks of the norm and of the linear: they have run, and this is no run of its own
            made = projection.linear.forward(self.norm.forward(self._streams[..., head, :]))
            heads[..., head, :] = projection.of(made)[..., head, :]
        return moved

    def detach(self, tap: Tap) -> None:
        """Take the tap out."""
        for handle in self._handles.pop(tap):
            handle.remove()
        self._received = self._streams = None


class HeadResults:
    """What each head writes, `[batch pos head d_model]`, whose sum (and the bias) is what the last linear returns.

    Args:
        linear: the last linear.
        heads: how many there are.
        weight: gives `W_O` `[head d_head d_model]` as it acts.
    """

    def __init__(self, linear: nn.Module, heads: int, weight: Callable[[], torch.Tensor]):
        self.linear = linear
        self.heads = heads
        self.weight = weight
        self._handles: dict[Tap, RemovableHandle] = {}

    def attach(self, tap: Tap) -> None:
        """Put the tap between the heads and their sum."""

        def put(module: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor | None:
            z = args[0].unflatten(-1, (self.heads, -1))
            results = torch.einsum("...hd,hdm->...hm", z, self.weight().to(z))
            new = tap(results)
            if new is results and not new.requires_grad:
                return None
            # the real output moved by the difference, so that what is left alone stays bit-equal
            return output + (new - results).sum(-2)

        self._handles[tap] = self.linear.register_forward_hook(put, prepend=True)

    def detach(self, tap: Tap) -> None:
        """Take the tap out."""
        self._handles.pop(tap).remove()
