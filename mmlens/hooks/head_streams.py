"""Each head's own copy of what attention reads, and each head's own output: points that exist only while they are hooked.

    blocks.2.hook_q_input  blocks.2.hook_k_input  blocks.2.hook_v_input  blocks.2.hook_attn_in     blocks.2.attn.hook_result

A head's input is the stream in front of the norm, once for each head; what a hook leaves of it goes through the norm and the
head's own part of the projection. A head's output is what it writes through `W_O`, before all are summed.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from mmlens.core.errors import MMLensError
from mmlens.hooks.attachment import TensorAccess
from mmlens.hooks.heads import HeadProjection
from mmlens.hooks.site import Tap


class HeadInputs:
    """The stream that each head of queries, keys or values reads, `[batch pos head d_model]`, in front of the norm.

    Where a hook changes it, or a gradient is asked for, every head is projected anew from its own; a run that leaves it alone
    is the model's.

    Args:
        norm: the norm in front of the attention.
        projections: where the heads that read it are made, with what their linear returns; several where all of queries, keys and
            values read one stream each by its number (grouped heads are fewer, and read the first ones).
    """

    #: In front of the points of what is made.
    RANK = -20

    def __init__(self, norm: nn.Module, projections: Mapping[HeadProjection, TensorAccess]):
        self.norm = norm
        self.projections = dict(projections)
        self._received: torch.Tensor | None = None
        self._streams: torch.Tensor | None = None
        self._changed = False
        self._handles: dict[Tap, tuple[RemovableHandle, list[tuple[TensorAccess, Tap]]]] = {}

    def attach(self, tap: Tap) -> None:
        """Put the tap in front of the heads."""
        heads = max(projection.heads for projection in self.projections)

        def receive(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._received = args[0] if args else next(iter(kwargs.values()))
            self._streams = None

        def project(projection: HeadProjection) -> Tap:
            def put(output: torch.Tensor) -> torch.Tensor:
                if self._received is None:
                    raise MMLensError(
                        "An attention ran before the norm in front of it; its heads' inputs have no value."
                    )
                if self._streams is None:
                    copies = self._received.unsqueeze(-2).expand(*self._received.shape[:-1], heads, -1)
                    new = tap(copies)
                    self._streams = new
                    self._changed = new.requires_grad or not (new is copies or torch.equal(new, copies))
                return self._projected(projection, output) if self._changed else output

            return put

        taps = [(access, project(projection)) for projection, access in self.projections.items()]
        for access, put in taps:
            access.attach(put, self.RANK)
        self._handles[tap] = (self.norm.register_forward_pre_hook(receive, with_kwargs=True), taps)

    def _projected(self, projection: HeadProjection, output: torch.Tensor) -> torch.Tensor:
        """What the linear returns if each head reads its own stream."""
        if self._streams is None:
            return output
        result = output.clone()
        heads = projection.of(result)
        for head in range(projection.heads):
            # past the hooks of the norm and of the linear: they have run, and this is no run of its own
            head_output = projection.linear.forward(self.norm.forward(self._streams[..., head, :]))
            heads[..., head, :] = projection.of(head_output)[..., head, :]
        return result

    def detach(self, tap: Tap) -> None:
        """Take the tap out."""
        handle, taps = self._handles.pop(tap)
        handle.remove()
        for access, put in taps:
            access.detach(put)
        self._received = self._streams = None


class HeadResults:
    """What each head writes, `[batch pos head d_model]`, whose sum (and the bias) is what the last linear returns.

    Args:
        linear: the last linear.
        output: what it returns.
        heads: how many there are.
        weight: gives `W_O` `[head d_head d_model]` as it acts.
    """

    def __init__(self, linear: nn.Module, output: TensorAccess, heads: int, weight: Callable[[], torch.Tensor]):
        self.linear = linear
        self.output = output
        self.heads = heads
        self.weight = weight
        self._received: torch.Tensor | None = None
        self._handles: dict[Tap, tuple[RemovableHandle, Tap]] = {}

    def attach(self, tap: Tap) -> None:
        """Put the tap between the heads and their sum."""

        def receive(module: nn.Module, args: tuple[Any, ...]) -> None:
            self._received = args[0]

        def put(output: torch.Tensor) -> torch.Tensor:
            if self._received is None:
                raise MMLensError("The last linear of an attention returned before it received anything.")
            z = self._received.unflatten(-1, (self.heads, -1))
            results = torch.einsum("...hd,hdm->...hm", z, self.weight().to(z))
            new = tap(results)
            if new is results and not new.requires_grad:
                return output
            # the real output moved by the difference, so that what is left alone stays bit-equal
            return output + (new - results).sum(-2)

        self.output.attach(put, HeadInputs.RANK)
        self._handles[tap] = (self.linear.register_forward_pre_hook(receive), put)

    def detach(self, tap: Tap) -> None:
        """Take the tap out."""
        handle, put = self._handles.pop(tap)
        handle.remove()
        self.output.detach(put)
        self._received = None
