"""A site is one tensor of one module: where hook points attach.

Several points can share a site (`hook_attn_out` and `hook_resid_mid` both live on the attention branch's output).
A site keeps them in declared order, whatever the order in which hooks are added, with a single torch hook on the
module, registered when the first tap arrives and removed with the last.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from mmlens.core.errors import MMLensError

#: A function in a site's path: takes the tensor, returns it or its replacement.
Tap: TypeAlias = Callable[[torch.Tensor], torch.Tensor]


class Site:
    """One tensor of one module: an argument it receives, or what it returns (the first item, if a tuple).

    Args:
        module: the real module, never replaced.
        side: `"in"` or `"out"`.
        argument: for `"in"`: the parameter's name; the first parameter is meant if `forward` has none of that name.
    """

    def __init__(self, module: nn.Module, side: Literal["in", "out"], argument: str = "hidden_states"):
        self.module = module
        self.side = side
        parameters = list(inspect.signature(module.forward).parameters)
        if parameters == ["args", "kwargs"]:  # wrapped by what splits a module over processes
            parameters = list(inspect.signature(type(module).forward).parameters)[1:]
        self.argument = argument if argument in parameters or not parameters else parameters[0]
        self._index = parameters.index(self.argument) if parameters else 0
        self._taps: list[tuple[int, Tap]] = []
        self._handle: RemovableHandle | None = None

    def attach(self, tap: Tap, rank: int) -> None:
        """Put `tap` in the path; taps of lower rank run earlier."""
        self._taps.append((rank, tap))
        self._taps.sort(key=lambda entry: entry[0])
        if self._handle is None:
            if self.side == "in":
                self._handle = self.module.register_forward_pre_hook(self._receive, with_kwargs=True)
            else:
                # prepend: transformers records hidden states with forward hooks of its own, and LLaVA-like models feed
                # the projector from that record; a hook that ran later would be lost on the layer that is read.
                self._handle = self.module.register_forward_hook(self._return, prepend=True)

    def detach(self, tap: Tap) -> None:
        """Take `tap` out of the path; with the last one the torch hook goes."""
        # by equality: a bound method is a new object each time it is looked up
        self._taps = [entry for entry in self._taps if entry[1] != tap]
        if not self._taps and self._handle is not None:
            self._handle.remove()
            self._handle = None

    def _pass(self, tensor: torch.Tensor) -> torch.Tensor:
        new = tensor
        for _, tap in tuple(self._taps):
            new = tap(new)
        return _in_place_of(tensor, new)

    def _receive(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if self.argument in kwargs:
            old = kwargs[self.argument]
            new = self._pass(old)
            return None if new is old else (args, {**kwargs, self.argument: new})
        index = self._index
        if index >= len(args) or not isinstance(args[index], torch.Tensor):
            raise MMLensError(
                f"{type(module).__name__} was called without the tensor {self.argument!r} that a hook point reads there; "
                f"it got {len(args)} positional arguments and {', '.join(kwargs) or 'no keywords'}."
            )
        new = self._pass(args[index])
        return None if new is args[index] else ((*args[:index], new, *args[index + 1 :]), kwargs)

    def _return(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if isinstance(output, tuple):
            new = self._pass(output[0])
            return None if new is output[0] else (new, *output[1:])
        new = self._pass(output)
        return None if new is output else new


def _in_place_of(old: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
    """A new tensor in the memory order of the one that it replaces.

    The order decides how the operations that follow round: half of a fused linear's output, or a raster that was
    permuted, would else give other last bits once a hook has copied it.
    """
    if new.stride() == old.stride() or new.shape != old.shape or 0 in old.stride():
        return new
    return torch.empty_strided(old.size(), old.stride(), dtype=new.dtype, device=new.device).copy_(new)


class MethodSite:
    """What a method of a module returns: for features that no module returns all at once.

    While a tap is attached, the module holds a function of the method's name that calls the class's own one and passes the
    result through the taps; afterwards it is gone. Features that come in one tensor per picture are seen as one,
    `[patch d_model]`.

    Args:
        module: the real module.
        method: the method's name.
        field: the attribute of its result that holds the features.
    """

    def __init__(self, module: nn.Module, method: str, field: str):
        self.module = module
        self.method = method
        self.field = field
        self._taps: list[tuple[int, Tap]] = []

    def attach(self, tap: Tap, rank: int) -> None:
        """Put `tap` in the path; taps of lower rank run earlier."""
        self._taps.append((rank, tap))
        self._taps.sort(key=lambda entry: entry[0])
        if len(self._taps) == 1:
            original = getattr(self.module, self.method)

            @functools.wraps(original)
            def through(*args: Any, **kwargs: Any) -> Any:
                return self._pass(original(*args, **kwargs))

            vars(self.module)[self.method] = through

    def detach(self, tap: Tap) -> None:
        """Take `tap` out of the path; with the last one the function goes."""
        self._taps = [entry for entry in self._taps if entry[1] != tap]
        if not self._taps:
            vars(self.module).pop(self.method, None)

    def _pass(self, result: Any) -> Any:
        features = getattr(result, self.field)
        pieces = None if isinstance(features, torch.Tensor) else list(features)
        old = features if pieces is None else torch.cat(pieces)
        new = old
        for _, tap in tuple(self._taps):
            new = tap(new)
        if new is not old or new.requires_grad:
            lengths = [] if pieces is None else [len(piece) for piece in pieces]
            setattr(result, self.field, new if pieces is None else torch.split(new, lengths))
        return result
