"""Calls of public functions with one wrong argument, and what becomes of them."""

import inspect
import os
import signal
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Any, Literal

import torch

import mmlens as mm
from tests.contracts.door.bad_values import bad_values, kind_of
from tests.contracts.door.callables import Public, public
from tests.contracts.door.examples import EXAMPLES, NEEDED
from tests.contracts.door.objects import OBJECTS
from tests.contracts.door.world import World

Outcome = Literal["clear", "forward", "returned", "unclear"]

#: The longest that a call may take.
SECONDS = 20


class Forward(BaseException):
    """A forward pass began."""


def _made_anew(cls: Any) -> dict[str, Callable[[], Any]]:
    """The fields of a dataclass whose default is made for each object: a signature shows a placeholder."""
    own = fields(cls) if is_dataclass(cls) else ()
    return {field.name: field.default_factory for field in own if field.default_factory is not MISSING}


@dataclass(frozen=True)
class Call:
    """A call with one wrong argument.

    Attributes:
        public: what is called.
        parameter: which argument is wrong.
        kind: what it means.
        value: the wrong value.
    """

    public: Public
    parameter: str
    kind: str
    value: Any

    def __repr__(self) -> str:
        return f"{self.public.name}({self.parameter}={_short(self.value)}) [{self.kind}]"


@dataclass(frozen=True)
class Result:
    """What became of a call.

    Attributes:
        call: the call.
        outcome: `"clear"` is an mmlens error before any forward pass; `"unclear"` another one; `"forward"` and `"returned"`
            are calls that were not refused.
        text: the error or what was returned.
    """

    call: Call
    outcome: Outcome
    text: str


class Fuzz:
    """Calls public functions with valid arguments but one.

    Args:
        world: the valid arguments.
    """

    def __init__(self, world: World):
        self.world = world
        self._made: dict[str, Any] = {}
        self.public = public()

    def calls(self) -> list[Call]:
        """All calls with one wrong argument."""
        return [
            Call(item, name, kind, value) for item, name, kind in self.places() for value in self.bad(item, name, kind)
        ]

    def without_example(self) -> list[str]:
        """Callables, objects and parameters that nobody wrote a right value for: the fuzz would pass them by."""
        missing = []
        for item in self.public:
            if item.takes_object and item.owner not in OBJECTS:
                missing.append(f"OBJECTS[{item.owner!r}], for {item.name}")
            for name in item.parameters:
                try:
                    self.example(item, name)
                except KeyError:
                    missing.append(f"EXAMPLES['{item.name}.{name}']")
        return missing

    def places(self) -> list[tuple[Public, str, str]]:
        """Each parameter of each public callable, and what it means."""
        return [
            (item, name, kind_of(item.name, name, self.example(item, name), str(item.parameters[name].annotation)))
            for item in self.public
            for name in item.parameters
        ]

    def bad(self, item: Public, name: str, kind: str) -> list[Any]:
        """The wrong values of a parameter."""
        parameter = item.parameters[name]
        if parameter.kind is parameter.VAR_KEYWORD:
            return [{"no_such_option": 1}]
        optional = parameter.default is None or "None" in str(parameter.annotation)
        values = bad_values(kind, self.example(item, name), optional=optional)
        default = self._default(item, name)
        if isinstance(default, list | tuple | dict) and not default:
            values = [value for value in values if not (isinstance(value, list | tuple | dict) and not value)]
        return values

    def _default(self, item: Public, name: str) -> Any:
        """A parameter's default, also where it is made for each object: a signature shows a placeholder then."""
        if item.is_class and name in _made_anew(item.function):
            return _made_anew(item.function)[name]()
        return item.parameters[name].default

    def example(self, item: Public, name: str) -> Any:
        """A right value of a parameter."""
        if name == "path" and item.name.endswith(".load") and f"{item.name}.path" not in EXAMPLES:
            return self.world.saved(self._object(str(item.owner)))
        key = self._key(item, name)
        if key is not None:
            if key not in self._made:
                self._made[key] = EXAMPLES[key](self.world)
            return self._made[key]
        default = self._default(item, name)
        if item.parameters[name].kind is inspect.Parameter.VAR_KEYWORD:
            return {}
        if default is not inspect.Parameter.empty:
            return default
        if item.is_class and item.name in OBJECTS:
            return getattr(self._object(item.name), name)
        raise KeyError(f"no example of {item.name}({name}=...)")

    def _key(self, item: Public, name: str) -> str | None:
        if item.is_class and item.name in OBJECTS and f"{item.name}.{name}" not in EXAMPLES:
            return None
        keys = [f"{item.name}.{name}", *([f"{item.owner}.{name}"] if item.owner else []), name]
        found = next((key for key in keys if key in EXAMPLES), None)
        default = item.parameters[name].default
        if found == name and default is not inspect.Parameter.empty and name not in (
            "progress", "max_new_tokens", "figure", *NEEDED.get(item.name, ())
        ):  # fmt: skip
            return None
        return found

    def _object(self, name: str) -> Any:
        key = f"object {name}"
        if key not in self._made:
            self._made[key] = OBJECTS[name](self.world)
        return self._made[key]

    def arguments(self, item: Public) -> dict[str, Any]:
        """Right values of all that must be given."""
        return {
            name: self.example(item, name)
            for name, parameter in item.parameters.items()
            if parameter.default is inspect.Parameter.empty
            or name in ("progress", "max_new_tokens", *NEEDED.get(item.name, ()))
        }

    def run(self, call: Call) -> Result:
        """Make a call."""
        return self.attempt(call, {**self.arguments(call.public), call.parameter: call.value})

    def attempt(self, call: Call, arguments: dict[str, Any]) -> Result:
        """Make a call, and stop where a forward pass begins."""
        item = call.public
        first = [self._object(str(item.owner))] if item.takes_object else []
        named = {}
        for name, value in arguments.items():
            kind = item.parameters[name].kind
            if kind is inspect.Parameter.VAR_POSITIONAL:
                first.append(value)
            elif kind is inspect.Parameter.VAR_KEYWORD:
                named.update(value)
            else:
                named[name] = value
        with _quiet(), self._attached(item), self._stopped_at_forward(), _time_limit():
            try:
                value = item.function(*first, **named)
                if item.is_class and hasattr(value, "hooks") and not isinstance(value, torch.nn.Module):
                    with self.world.model.intervene(value):
                        self.world.model(self.world.batch)
                elif item.is_class and item.name == "metrics.Metric":
                    value.on(self.world.model)
                elif hasattr(value, "__enter__") and hasattr(value, "__exit__"):
                    with value:
                        pass
                elif isinstance(value, Iterator):
                    next(value, None)
                elif type(value).__name__ == "Metric":
                    value.on(self.world.model)
            except mm.MMLensError as error:
                return Result(call, "clear", str(error))
            except Forward:
                return Result(call, "forward", "")
            except (IndexError, TypeError) as error:
                # Python's own words for what sequences and mappings cannot look up
                is_own = item.name.endswith("__getitem__") and isinstance(first[0], Sequence | Mapping)
                return Result(call, "clear" if is_own else "unclear", f"{type(error).__name__}: {error}")
            except Exception as error:  # noqa: BLE001 - every other error is what is counted
                return Result(call, "unclear", f"{type(error).__name__}: {error}")
            finally:
                self.world.model.reset_hooks()
        return Result(call, "returned", _short(value))

    @contextmanager
    def _attached(self, item: Public) -> Iterator[None]:
        """The dictionary in the path, for what asks for its features."""
        if item.owner == "FeatureScores" or item.name in ("find_features", "feature_words", "page"):
            with self.world.model.attach(self.world.sae):
                yield
        else:
            yield

    @contextmanager
    def _stopped_at_forward(self) -> Iterator[None]:
        model = self.world.model
        parts = [
            model.hf_model,
            *(module for module in model.hf_model.modules() if type(module).__name__.endswith("Attention")),
        ]

        def stop(module: torch.nn.Module, *inputs: Any) -> None:
            raise Forward

        handles = [part.register_forward_pre_hook(stop) for part in parts]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


@contextmanager
def _quiet() -> Iterator[None]:
    """In an empty folder, without warnings."""
    before = os.getcwd()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        os.chdir(folder)
        try:
            yield
        finally:
            os.chdir(before)


@contextmanager
def _time_limit() -> Iterator[None]:
    def stop(number: int, frame: Any) -> None:
        raise TimeoutError(f"the call took more than {SECONDS} seconds")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _short(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"tensor {value.dtype} {list(value.shape)}"
    plain = str | int | float | complex | bytes | list | tuple | dict | None
    text = repr(value) if isinstance(value, plain) else f"a {type(value).__name__}"
    return text if len(text) < 60 else f"{text[:57]}..."
