"""The hook point: TransformerLens's `HookPoint`, attached to the real module only while it has a hook."""

from collections.abc import Callable, Container
from typing import Any, cast

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle
from transformer_lens.hook_points import HookPoint

from mmlens.core.errors import InputError
from mmlens.hooks.attachment import Attachment
from mmlens.hooks.site import Tap


def reads_only(function: Callable[..., None]) -> Callable[..., None]:
    """Mark a hook function that changes nothing, neither in place nor by what it returns; it is spared a copy."""
    vars(function)["reads_only"] = True
    return function


class Point(HookPoint):
    """A named place in the wrapped model that hooks can read, change and differentiate.

    Use it like any TransformerLens hook point: `point.add_hook(fn)` with `fn(activation, hook)` returning a new
    activation or None. It attaches itself to the Hugging Face module when the first hook arrives and detaches with
    the last, so a model without hooks runs exactly as it would without mmlens.

    Args:
        name: full hook name.
        attachment: how the point reaches its tensor.
        read_by: the linear that reads the neurons or heads that it holds, at the points that hold some.
    """

    def __init__(self, name: str, attachment: Attachment, *, read_by: nn.Module | None = None):
        super().__init__()
        self.name = name
        self.__dict__["read_by"] = read_by  # not a submodule of ours
        self._attachment = attachment
        self._tap = self._through  # one bound object, so that detaching finds what attaching put in
        self._attached = False
        self._behind: tuple[Tap, ...] = ()

    @property
    def attachment(self) -> Attachment:
        """How the point reaches its tensor."""
        return self._attachment

    def rebind(self, other: "Point") -> None:
        """Reach the tensor that another point reaches, hooks and all: adapters have copies of modules, of which one acts."""
        is_attached = self._attached
        if is_attached:
            self._attachment.detach(self._tap)
        self._attachment = other._attachment
        self.__dict__["read_by"] = other.read_by
        if is_attached:
            self._attachment.attach(self._tap)

    @property
    def attached(self) -> bool:
        """Whether the point is now in the path of its tensor."""
        return self._attached

    def then(self, tap: Tap) -> Callable[[], None]:
        """Have a function in the path behind all hooks of this point.

        Args:
            tap: takes the tensor, returns it or its replacement.

        Returns:
            What takes it out.
        """

        def undo() -> None:
            self._behind = tuple(other for other in self._behind if other is not tap)
            self._settle()

        self._behind = (*self._behind, tap)
        self._settle()
        return undo

    def register_forward_hook(self, *args: Any, **kwargs: Any) -> "PointHandle":
        """As in torch; attaches the point."""
        return self._hold(super().register_forward_hook(*args, **kwargs))

    def register_full_backward_hook(self, *args: Any, **kwargs: Any) -> "PointHandle":
        """As in torch; attaches the point."""
        return self._hold(super().register_full_backward_hook(*args, **kwargs))

    def without(self, kept: Container[int]) -> Callable[[], None]:
        """Put the hooks on activations out of action; without any the point detaches, so that the module runs as it would alone.

        Args:
            kept: ids of functions that go on acting.

        Returns:
            What brings them back, in their order.
        """
        handles, hooks = self.fwd_hooks, dict(self._forward_hooks)
        self.fwd_hooks = [handle for handle in handles if id(handle.user_hook) in kept]
        for handle in handles:
            if id(handle.user_hook) not in kept:
                cast(PointHandle, handle.hook).suspend()
        self._settle()

        def restore() -> None:
            self.fwd_hooks = handles
            self._forward_hooks.clear()
            self._forward_hooks.update(hooks)
            self._settle()

        return restore

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The tensor that hooks see: a copy of the model's, so that an edit in place means what a returned one does.

        Neighbouring points are often handed one and the same tensor (a block's output is the next block's input), which
        may be read elsewhere too, and some points hold a tensor that the model never has. Hooks that only read
        (`reads_only`) are shown the tensor itself, under autograd a view of it, whose gradient is this point's alone.
        """
        readers = sum(getattr(handle.user_hook, "reads_only", False) for handle in self.fwd_hooks)
        if len(self._forward_hooks) > readers:
            return x.clone()
        return x.view_as(x) if x.requires_grad else x

    def _through(self, activation: torch.Tensor) -> torch.Tensor:
        """The activation as the hooks, and what stands behind them, leave it."""
        new = self._hooked(activation)
        for tap in self._behind:
            new = tap(new)
        return new

    def _hooked(self, activation: torch.Tensor) -> torch.Tensor:
        """The activation as the hooks leave it; of another shape it would be spread over the model's, or fail far from here.

        Raises:
            InputError: if a hook returned something that cannot take the activation's place.
        """
        new = self(activation)
        if isinstance(new, torch.Tensor) and (
            new is activation
            or (new.shape == activation.shape and new.dtype == activation.dtype and new.device == activation.device)
        ):
            return new
        raise InputError(
            f"A hook at {self.name} returned {_described(new)}, where the activation is {_described(activation)}; return a "
            "tensor like it (new.to(activation) takes over dtype and device), or None to leave it as it is."
        )

    def _hold(self, handle: RemovableHandle) -> "PointHandle":
        self._settle()
        return PointHandle(self, handle)

    def _settle(self) -> None:
        """Be attached exactly while torch holds a hook of ours, or something stands behind them."""
        active = bool(self._forward_hooks or self._backward_hooks or self._behind)
        if active and not self._attached:
            self._attachment.attach(self._tap)
        elif self._attached and not active:
            self._attachment.detach(self._tap)
        else:
            return
        # past nn.Module's bookkeeping of parameters and children, which takes longer than attaching
        object.__setattr__(self, "_attached", active)


def _described(value: object) -> str:
    if not isinstance(value, torch.Tensor):
        return f"a {type(value).__name__}"
    return f"{list(value.shape)} {str(value.dtype).removeprefix('torch.')} on {value.device}"


class PointHandle(RemovableHandle):
    """Removes one hook from a point, and the point from its module if that was the last one."""

    def __init__(self, point: Point, handle: RemovableHandle):
        self._point = point
        self._handle = handle

    def suspend(self) -> None:
        """Take the hook out of torch's list, for `Point.without`."""
        self._point._forward_hooks.pop(self._handle.id, None)

    def remove(self) -> None:
        """Remove exactly this hook; safe to call twice."""
        self._handle.remove()
        point = self._point
        if point.fwd_hooks:
            point.fwd_hooks = [handle for handle in point.fwd_hooks if handle.hook is not self]
        if point.bwd_hooks:
            point.bwd_hooks = [handle for handle in point.bwd_hooks if handle.hook is not self]
        point._settle()
