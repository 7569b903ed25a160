"""One run of a bare model, written down: which module was called when, with what, and what it returned."""

import inspect
import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

RECORDER = "mmlens_discovery"


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
    def stream(self) -> torch.Tensor | None:
        """What a hook on the module's input would see: its `hidden_states`, or its first argument."""
        if "hidden_states" in self.received:
            return self.received["hidden_states"]
        names = list(inspect.signature(self.module.forward).parameters)
        return self.received.get(names[0]) if names else None


@dataclass(eq=False)
class AttentionCall:
    """One call of transformers' registered attention function, or of softmax attention in code of a module's own.

    Attributes:
        module: the calling module; the innermost module that was running, for code of its own.
        when: the clock.
        registered: whether it went through the registered function.
        heads: number of query heads.
        query, key, value: what the function received, `[batch head pos d_head]`; None where only a softmax was seen.
        output: what the registered function returned, `[batch pos head d_head]`.
    """

    module: nn.Module | None
    when: int
    registered: bool
    heads: int
    query: torch.Tensor | None = None
    key: torch.Tensor | None = None
    value: torch.Tensor | None = None
    output: torch.Tensor | None = None


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
        return [each for each in self.calls if call.enter < each.enter and each.exit < call.exit]


#: Who is told of calls of the registered function; None while it runs, as what it does inside is no attention of its own.
_ACTIVE: list[Callable[[AttentionCall], None] | None] = []


def _record_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **options: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Torch's own attention, with a note of who called it."""
    options.pop("softcap", None)  # torch's function has none; the structure is the same without
    _ACTIVE.append(None)
    try:
        output, weights = ALL_ATTENTION_FUNCTIONS["sdpa"](module, query, key, value, attention_mask, **options)
    finally:
        _ACTIVE.pop()
    note = _ACTIVE[-1] if _ACTIVE else None
    if note is not None:
        note(AttentionCall(module, 0, True, query.shape[1], query, key, value, output))
    return output, weights


AttentionInterface.register(RECORDER, _record_attention)
AttentionMaskInterface.register(RECORDER, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])


class _OwnAttention(TorchFunctionMode):
    """Notes attention in code of a module's own: torch's fused function, or a softmax over pairs of positions."""

    def __init__(self, note: Callable[[AttentionCall], None]):
        super().__init__()
        self.note = note

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the function; note it if it is attention."""
        result = func(*args, **(kwargs or {}))
        if func is F.scaled_dot_product_attention:
            given = {**dict(zip(("query", "key", "value"), args, strict=False)), **(kwargs or {})}
            query, key, value = (given[name] for name in ("query", "key", "value"))
            if query.ndim == 4:
                self.note(AttentionCall(None, 0, False, query.shape[1], query, key, value))
        elif func in (torch.softmax, F.softmax, torch.Tensor.softmax) and result.ndim == 4:
            self.note(AttentionCall(None, 0, False, result.shape[1]))
        return result


@contextmanager
def recording_attention(model: nn.Module) -> Iterator[None]:
    """Have every tower use the recording attention function inside the `with`."""
    held = [getattr(module, "config", None) for module in model.modules()]
    configs: dict[int, Any] = {id(config): config for config in held if hasattr(config, "_attn_implementation")}
    own = {key: config._attn_implementation for key, config in configs.items()}
    try:
        for config in configs.values():
            # the internal attribute: the property would hand the name on to sub-configurations, which are other towers
            config._attn_implementation_internal = RECORDER
        yield
    finally:
        for key, config in configs.items():
            config._attn_implementation_internal = own[key]


def _first_tensor(result: Any) -> torch.Tensor | None:
    first = result[0] if isinstance(result, tuple) and result else result
    return first if isinstance(first, torch.Tensor) else None


def _received(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    names = list(inspect.signature(module.forward).parameters)
    given = {**dict(zip(names, args)), **kwargs}
    return {name: value for name, value in given.items() if isinstance(value, torch.Tensor)}


@torch.no_grad()
def traced(
    model: nn.Module,
    inputs: Mapping[str, Any],
    *,
    only: Callable[[str], bool] | None = None,
    change: Any = None,
    copied: frozenset[str] = frozenset(),
) -> Trace:
    """Run a bare model and write down what its modules did.

    Args:
        model: the bare model.
        inputs: its keyword tensors.
        only: which modules to write down, by path; all by default.
        change: a module and a function of what it returns, `(module, function)`, to run with that changed.
        copied: modules whose tensors are overwritten later in the run, and so are copied; found by a first run.
    """
    trace, clock = Trace(), itertools.count(1)
    begun: list[tuple[int, nn.Module, Any, Any]] = []
    seen: list[tuple[dict[str, torch.Tensor], list[int]]] = []
    versions: list[list[int]] = []
    chosen = [(path, module) for path, module in model.named_modules() if only is None or only(path)]
    paths = {id(module): path for path, module in chosen}

    def begin(module: nn.Module, args: Any, kwargs: Any) -> None:
        received = _received(module, args, kwargs)
        if paths[id(module)] in copied:
            received = {name: value.clone() for name, value in received.items()}
        begun.append((next(clock), module, args, kwargs))
        seen.append((received, [value._version for value in received.values()]))

    def end(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        enter, _, args, kwargs = begun.pop()
        items = output if isinstance(output, tuple) else ()
        path = paths[id(module)]
        (received, then), returned = seen.pop(), _first_tensor(output)
        if path in copied and returned is not None:
            returned = returned.clone()
        call = Call(path, module, enter, next(clock), received, returned, items, (args, kwargs))
        versions.append([*then, *([] if returned is None else [returned._version])])
        trace.calls.append(call)
        trace._counts[id(module)] += 1

    def note(call: AttentionCall) -> None:
        call.when = next(clock)
        trace.attention.append(call)

    def note_own(call: AttentionCall) -> None:
        if _ACTIVE[-1] is not None:
            call.module = begun[-1][1] if begun else None
            note(call)

    with ExitStack() as stack:
        if change is not None:
            stack.callback(changed(*change).remove)
        for _, module in chosen:
            stack.callback(module.register_forward_pre_hook(begin, with_kwargs=True).remove)
            stack.callback(module.register_forward_hook(end, with_kwargs=True).remove)
        stack.enter_context(recording_attention(model))
        _ACTIVE.append(note)
        stack.callback(_ACTIVE.pop)
        with _OwnAttention(note_own):
            trace.result = model(**{"use_cache": False, **inputs})
    overwritten = {
        call.path
        for call, then in zip(trace.calls, versions, strict=True)
        if [held._version for held in _tensors(call)] != then
    }
    if overwritten - copied:
        return traced(model, inputs, only=only, change=change, copied=copied | overwritten)
    return trace


def _tensors(call: Call) -> list[torch.Tensor]:
    """The tensors that a call is written down with."""
    return [*call.received.values(), *([] if call.returned is None else [call.returned])]


def changed(module: nn.Module, function: Callable[[torch.Tensor], torch.Tensor]) -> Any:
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
    seen: list[AttentionCall] = []
    args, kwargs = call.arguments
    handle = changed(module, function)
    _ACTIVE.append(seen.append)

    def note_own(own: AttentionCall) -> None:
        if _ACTIVE[-1] is not None:
            seen.append(own)

    try:
        with recording_attention(model), _OwnAttention(note_own):
            call.module(*args, **kwargs)
    finally:
        _ACTIVE.pop()
        handle.remove()
    return seen


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
