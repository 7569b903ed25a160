"""Accelerators made of nothing: tensors that say they lie on another device, and are computed on the CPU.

    with pretend_devices():
        model = HookedMultimodal.from_pretrained(path, device=DEVICE)

An operation that a real accelerator refuses is refused here too: tensors of two devices in one operation, unless one is a CPU
scalar in element-wise arithmetic, a CPU index in `x[index]`, or the operation is a copy. So a forgotten `.to(device)` fails on a
machine that has no accelerator. Numbered devices are as foreign to each other as to the CPU.

The device borrows the name `lazy`: torch's autograd engine runs for it on the calling thread and asks for no driver. Nothing
of torch's own lazy tensors is used; one that appears is an error.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import cache
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

#: The first two pretended devices.
DEVICE, SECOND = torch.device("lazy:0"), torch.device("lazy:1")
_CPU = torch.device("cpu")
_aten = torch.ops.aten

#: Copies, whose very job is to go from one device to another.
_COPIES = {_aten.copy_.default, _aten._to_copy.default, _aten.copy.default}
#: Indexing: the places may be on the CPU while the tensor is not, never the other way round.
_INDEXING = {_aten.index.Tensor, _aten.index_put.default, _aten.index_put_.default, _aten._index_put_impl_.default}
#: Operations beyond element-wise arithmetic that take a value of no dimensions from the CPU.
_SCALAR_VALUE = {
    _aten.masked_fill.Tensor,
    _aten.masked_fill_.Tensor,
    _aten.index_fill.int_Tensor,
    _aten.index_fill_.int_Tensor,
    _aten.fill.Tensor,
    _aten.fill_.Tensor,
    _aten.where.self,
    *_INDEXING,
}


class DeviceError(RuntimeError):
    """Tensors of different devices met in one operation."""


class Far(torch.Tensor):
    """A tensor on a pretended device; what it holds is on the CPU, and only this file may touch that."""

    held: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held: torch.Tensor, device: torch.device) -> "Far":
        """Wrap a CPU tensor; the wrapper has its shape, strides and dtype."""
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=device,
            requires_grad=False,
        )
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Compute on the CPU what was asked of the device."""
        return _run(func, args, kwargs or {})

    @property
    def data(self) -> "Far":
        """Without a history."""
        return self.detach()

    @data.setter
    def data(self, new: "Far") -> None:
        """Put in another tensor, as `nn.Module.to(dtype)` does."""
        torch._C.TensorBase.data.__set__(self, new)
        self.held = new.held

    def tolist(self) -> Any:
        """Fetched, as from every device; torch refuses it to subclasses."""
        return self.detach().cpu().tolist()

    def numpy(self, *, force: bool = False) -> Any:
        """Refused, unless forced, as for every device."""
        if not force:
            raise TypeError(
                f"can't convert {self.device} tensor to numpy. Use Tensor.cpu() to copy it to host memory first."
            )
        return self.detach().cpu().numpy()

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        """As a tensor prints itself, with its device."""
        return f"{self.held!r} on {self.device}"

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Not picklable: none of these may end in a file."""
        raise TypeError("a tensor of a pretended device cannot be pickled")


class _Everything(TorchDispatchMode):
    """Sends every operation through this file, also one with no far tensor in it yet (`torch.zeros(3, device=...)`)."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {}, mode=self)


class _Made(TorchFunctionMode):
    """Makes tensors of lists that hold far tensors: torch would fetch their numbers where nothing can be intercepted."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.tensor, torch.as_tensor) and isinstance(args[0], list | tuple):
            args = (tree_map_only(Far, Far.tolist, args[0]), *args[1:])
        return func(*args, **(kwargs or {}))


@cache
def _exist() -> None:
    """Say to torch, once in a process, that there is such a device; nothing else changes."""
    torch._C._lazy_ts_backend._init()


@contextmanager
def pretend_devices() -> Iterator[None]:
    """Inside, `DEVICE` and `SECOND` exist. Far tensors outlive this, but only inside can new ones be made."""
    _exist()
    lifted, swapped = torch._C._only_lift_cpu_tensors(), torch.__future__.get_swap_module_params_on_conversion()
    torch._C._set_only_lift_cpu_tensors(True)  # numbers become a CPU tensor first, which is then moved: by us
    torch.__future__.set_swap_module_params_on_conversion(True)  # what modules share, they share after a move
    try:
        # one thread: the engine starts others only for devices that it knows
        with torch.autograd.set_multithreading_enabled(False), _Made(), _Everything():
            yield
    finally:
        torch._C._set_only_lift_cpu_tensors(lifted)
        torch.__future__.set_swap_module_params_on_conversion(swapped)


def _run(func: Any, args: Any, kwargs: Mapping[str, Any], mode: TorchDispatchMode | None = None) -> Any:
    if func is _aten._fused_sdp_choice.default:
        return 0  # plain arithmetic: each step is then checked
    tensors: list[torch.Tensor] = []
    near_args, near = _near(args, tensors), {name: _near(value, tensors) for name, value in kwargs.items()}
    if any(tensor.device.type == DEVICE.type and not isinstance(tensor, Far) for tensor in tensors):
        raise NotImplementedError(f"before {func}, torch made a tensor of the device without asking here")
    far = [tensor for tensor in tensors if isinstance(tensor, Far)]
    asked = kwargs.get("device")
    target = None if asked is None else _numbered(torch.device(asked))
    if not far and (target is None or target.type != DEVICE.type):
        return func(*args, **kwargs)
    if _is_composite(func):  # under inference mode these arrive whole; their steps decide what is allowed
        with mode or _Everything():
            return func.decompose(*args, **kwargs)
    home = far[0].device if far else _CPU
    if far and func not in _COPIES:
        home = _checked(func, args, tensors)
    if target is None:
        target = args[0].device if func in _COPIES else home
    if kwargs.get("generator") is not None and target.type == DEVICE.type:
        raise DeviceError(f"{func}: expected a generator of {target} but found one of {kwargs['generator'].device}")
    return _wrapped(func, args, near_args, near, far, target)


def _near(value: Any, met: list[torch.Tensor]) -> Any:
    """What operations are given, with what far tensors hold in their places; notes the tensors that it meets."""
    if isinstance(value, torch.Tensor):
        met.append(value)
        return value.held if isinstance(value, Far) else value
    if isinstance(value, list | tuple):
        return type(value)([_near(each, met) for each in value])
    return value


def _wrapped(func: Any, args: Any, near_args: Any, near: dict[str, Any], far: list[Far], target: torch.device) -> Any:
    """Run on what the tensors hold, and wrap what comes out; what was changed in place comes back as itself."""
    if "device" in near:
        near["device"] = _CPU
    with torch.inference_mode(False):  # what is held may be changed outside inference mode, if its wrapper may
        out = func(*near_args, **near)
        if func is _aten._to_copy.default and out is near_args[0]:
            out = out.clone()
    if target.type != DEVICE.type:
        return out
    own = {id(tensor.held): tensor for tensor in far}
    # a view of a tensor from outside inference mode is one from outside, too
    outside = getattr(func, "is_view", False) and not args[0].is_inference()
    with torch.inference_mode(False) if outside else nullcontext():
        if isinstance(out, torch.Tensor):
            return own[id(out)] if id(out) in own else Far(out, target)
        return tree_map_only(torch.Tensor, lambda made: own[id(made)] if id(made) in own else Far(made, target), out)


def _checked(func: Any, args: Any, tensors: list[torch.Tensor]) -> torch.device:
    """The one device on which an operation runs; refuses a mixture as CUDA does."""
    if func in _INDEXING:
        places = {id(index) for index in args[1] if index is not None and index.device == _CPU}
        tensors = [tensor for tensor in tensors if id(tensor) not in places]
    homes = {tensor.device for tensor in tensors}
    if len(homes) == 1:
        return next(iter(homes))
    if func in _SCALAR_VALUE or torch.Tag.pointwise in func.tags:
        homes = {tensor.device for tensor in tensors if tensor.device != _CPU or tensor.ndim}
    first = args[0].device if isinstance(args[0], torch.Tensor) else None
    if len(homes) == 1 and (not func._schema.is_mutable or first in homes):
        return next(iter(homes))
    found = ", ".join(f"{list(tensor.shape)} on {tensor.device}" for tensor in tensors)
    raise DeviceError(f"{func}: expected all tensors to be on the same device, but found {found}")


def _numbered(device: torch.device) -> torch.device:
    return DEVICE if device.type == DEVICE.type and device.index is None else device


@cache
def _is_composite(func: Any) -> bool:
    return func._can_decompose() if isinstance(func, torch._ops.OpOverload) else False
