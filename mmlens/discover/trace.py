"""One run of a bare model, written down: which module was called when, with what, and what it returned."""

import inspect
import itertools
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import nn

from mmlens.discover.attention_calls import AttentionCall, told_of_attention


@dataclass(eq=False)
class Call:
    """One call of one module.

    Attributes:
        path: the module's path in the model.
        module: the module.
        enter, exit: when it began and ended, on a clock that ticks with every begin and end.
        received: the tensors that it was called with, by the name of the argument.
        returned: the tensor that it returned, or the first item of the tuple; None if it returned neither.
        items: all items of a returned tuple.
        arguments: how it was called, to call it again.
    """

    path: str
    module: nn.Module
    enter: int
    exit: int
    received: dict[str, torch.Tensor]
    returned: torch.Tensor | None
    items: tuple[Any, ...]
    arguments: tuple[tuple[Any, ...], dict[str, Any]]

    @property
    def output(self) -> torch.Tensor:
        """The tensor that it returned, where it is known to have returned one."""
        return cast(torch.Tensor, self.returned)

    @property
    def linear(self) -> nn.Linear:
        """Its module, where it is known to be a linear map: by its sizes, whatever its class is."""
        return cast(nn.Linear, self.module)

    @property
    def stream(self) -> torch.Tensor | None:
        """What a hook on the module's input would see: its `hidden_states`, or its first argument."""
        if "hidden_states" in self.received:
            return self.received["hidden_states"]
        names = list(inspect.signature(self.module.forward).parameters)
        return self.received.get(names[0]) if names else None


@dataclass
class Trace:
    """What happened in one run.

    Attributes:
        calls: in the order in which they ended.
        attention: in order.
        result: what the model returned.
    """

    calls: list[Call] = field(default_factory=list)
    attention: list[AttentionCall] = field(default_factory=list)
    result: Any = None
    _counts: Counter[int] = field(default_factory=Counter)

    def count(self, module: nn.Module) -> int:
        """How often a module was called."""
        return self._counts[id(module)]

    def of(self, path: str) -> list[Call]:
        """The calls of the module at a path."""
        return [call for call in self.calls if call.path == path]

    def within(self, call: Call) -> list[Call]:
        """The calls that happened inside of a call, itself left out."""
        return [inner for inner in self.calls if call.enter < inner.enter and inner.exit < call.exit]


def _first_tensor(result: Any) -> torch.Tensor | None:
    first = result[0] if isinstance(result, tuple) and result else result
    return first if isinstance(first, torch.Tensor) else None


def _received(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    names = list(inspect.signature(module.forward).parameters)
    arguments = {**dict(zip(names, args)), **kwargs}
    return {name: value for name, value in arguments.items() if isinstance(value, torch.Tensor)}


class _Recorder:
    """The hooks that write a run down.

    Attributes:
        trace: what was written.
        paths: the path of every module that is written down, by the module's id.
        copied: paths whose tensors are copied.
    """

    def __init__(self, paths: Mapping[int, str], copy_paths: frozenset[str]):
        self.trace = Trace()
        self.paths = paths
        self.copied = copy_paths
        self._clock = itertools.count(1)
        #: the calls that have not ended: when each began, its module, what it received, and the versions of these tensors
        self._begun: list[tuple[int, nn.Module, dict[str, torch.Tensor], list[int]]] = []
        self._versions: list[list[int]] = []

    def begin(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        """A forward pre-hook."""
        inputs = _received(module, args, kwargs)
        if self.paths[id(module)] in self.copied:
            inputs = {name: value.clone() for name, value in inputs.items()}
        versions = [value._version for value in inputs.values()]
        self._begun.append((next(self._clock), module, inputs, versions))

    def end(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        """A forward hook."""
        enter, _, inputs, versions = self._begun.pop()
        path, outputs = self.paths[id(module)], _first_tensor(output)
        if path in self.copied and outputs is not None:
            outputs = outputs.clone()
        items = output if isinstance(output, tuple) else ()
        call = Call(path, module, enter, next(self._clock), inputs, outputs, items, (args, kwargs))
        self._versions.append([*versions, *([] if outputs is None else [outputs._version])])
        self.trace.calls.append(call)
        self.trace._counts[id(module)] += 1

    def note(self, call: AttentionCall) -> None:
        """Told of attention; in code of a module's own, by the innermost module that is running."""
        if not call.registered:
            call.module = self._begun[-1][1] if self._begun else None
        call.when = next(self._clock)
        self.trace.attention.append(call)

    @property
    def overwritten(self) -> set[str]:
        """The modules whose tensors were written over later in the run."""
        records = zip(self.trace.calls, self._versions, strict=True)
        return {call.path for call, then in records if [tensor._version for tensor in _tensors(call)] != then}


@torch.no_grad()
def traced(
    model: nn.Module,
    inputs: Mapping[str, Any],
    *,
    only: Callable[[str], bool] | None = None,
    change: Any = None,
    copy_paths: frozenset[str] = frozenset(),
) -> Trace:
    """Run a bare model and write down what its modules did.

    Args:
        model: the bare model.
        inputs: its keyword tensors.
        only: which modules to write down, by path; all by default.
        change: a module and a function of what it returns, `(module, function)`, to run with that changed.
        copy_paths: modules whose tensors are overwritten later in the run, and so are copied; found by a first run.
    """
    modules = [(path, module) for path, module in model.named_modules() if only is None or only(path)]
    recorder = _Recorder({id(module): path for path, module in modules}, copy_paths)
    with ExitStack() as stack:
        if change is not None:
            stack.callback(change_output(*change).remove)
        for _, module in modules:
            stack.callback(module.register_forward_pre_hook(recorder.begin, with_kwargs=True).remove)
            stack.callback(module.register_forward_hook(recorder.end, with_kwargs=True).remove)
        stack.enter_context(told_of_attention(model, recorder.note))
        recorder.trace.result = model(**{"use_cache": False, **inputs})
    if recorder.overwritten - copy_paths:
        return traced(model, inputs, only=only, change=change, copy_paths=copy_paths | recorder.overwritten)
    return recorder.trace


def _tensors(call: Call) -> list[torch.Tensor]:
    """The tensors that a call is written down with."""
    return [*call.received.values(), *([] if call.returned is None else [call.returned])]


def change_output(module: nn.Module, function: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """Change what a module returns from now on; returns the handle that undoes it.

    In front of other hooks: transformers records hidden states by hooks of its own, and some models read the record.
    """

    def change(module: nn.Module, args: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (function(output[0]), *output[1:])
        return function(output)

    return module.register_forward_hook(change, prepend=True)


@torch.no_grad()
def called_again(
    model: nn.Module, call: Call, module: nn.Module, function: Callable[[torch.Tensor], torch.Tensor]
) -> list[AttentionCall]:
    """The attention calls of a recorded call, made again with what a module inside returns changed."""
    calls: list[AttentionCall] = []
    args, kwargs = call.arguments
    handle = change_output(module, function)
    try:
        with told_of_attention(model, calls.append):
            call.module(*args, **kwargs)
    finally:
        handle.remove()
    return calls


def noisy(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor with seeded noise of its own size."""
    noise = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(1)).to(tensor)
    return tensor + noise * tensor.abs().float().mean().clamp(min=0.1).to(tensor.dtype)


def is_linear(module: nn.Module) -> bool:
    """Whether it maps rows by a matrix of its own; adapters and quantised layers count."""
    features = (getattr(module, "in_features", None), getattr(module, "out_features", None))
    return all(isinstance(number, int) for number in features) and hasattr(module, "weight")


def same(a: torch.Tensor | None, b: torch.Tensor | None) -> bool:
    """Whether two tensors hold the same rows, in whatever axes the rows are laid out."""
    if a is None or b is None or a.numel() != b.numel() or a.ndim == 0 or b.ndim == 0 or a.shape[-1] != b.shape[-1]:
        return False
    return a.dtype == b.dtype and torch.equal(a.reshape(b.shape), b)
