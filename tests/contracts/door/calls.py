"""Calls of public functions with one wrong argument, and what becomes of them."""

import inspect
import os
import signal
import tempfile
import types
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Any, Literal

import torch

import mmlens as mm
from mmlens.core.registry import Method
from tests.contracts.door.bad_values import bad_values, kind_of
from tests.contracts.door.world import EXAMPLES, NEEDED, OBJECTS, World

Outcome = Literal["clear", "forward", "returned", "unclear"]

#: What interventions are asked by the model that carries them out, not by users.
INTERNAL = {
    "acting",
    "change",
    "changed",
    "check",
    "directions",
    "everywhere",
    "extra_repr",
    "finder",
    "hooks",
    "points",
    "precedes",
    "reached",
    "reaches",
    "require_samples",
    "resolve",
    "starts",
}
#: Constructors and tools that only mmlens itself calls, and calls that need what a call before them did.
UNUSED = {
    "ActivationCache",
    "ActivationStore",
    "ActivationStore.repair",
    "ActivationStore.repaired",
    "ActivationStore.to_dataset",
    "ConceptBank.from_sae",
    "ConceptBank.of",
    "ContextualIndex.from_latentlens",
    *(f"FeatureScores.{name}" for name in ("heatmap", "to_frame", "words")),
    "feature_words",
    "find_features",
    "HookGraph",
    "HookedMultimodal.adapter",
    "HookedMultimodal.attach",
    "HookedMultimodal.revert",
    "MappedStates",
    "MappedStates.of",
    "MappedStates.of_rows",
    "RandomUnits.interval",
    *(f"SparseDictionary.{name}" for name in ("code_gradients", "codes", "flat", "pre_codes", "written")),
    "data.SampleSet",
    *("scorers.Score", "scorers.ScoreTable", "scorers.Difference"),
    "States.to_dataset",
    "Unit",
    "Unit.at",
    "Units.of",
    "Units.only",
    "VectorPredictor",
    "metrics.image_text_score",
    "metrics.kl_divergence",
    "positions.index",
    "positions.row",
}
#: Calls that need what a call before them did: a dictionary that is attached.
AFTER_OTHERS = {"page"}
#: Modules whose callables are told apart by the module's name; those of the others have names of their own.
PREFIXED = {"corrupt", "data", "edits", "lab", "metrics", "positions", "scorers"}
OWN_NAMES = {"edit_report", "EditReport"}
#: Declarations, which describe modules, and figures, which results call.
APART = {"families", "viz"}
#: Pieces of results, which verbs build.
RECORDS = {
    *(
        "LatentWord",
        "SplitBest",
        "CaptionWord",
        "ConceptCount",
        "ConceptGrounding",
        "ConceptSweep",
        "Correlation",
        "Edge",
        "GenerationTrace",
    ),
    *("LatentWord", "SplitBest"),
    *("GroundedConcept", "GroundingScores", "PatchEffect", "Plan", "SampleTop", "Selection", "SizeEstimate"),
    *("GraphNode", "GraphScores", "RowQuality", "StateExplanation", "StoreCheck", "Validation", "Value", "Drawing"),
    *(f"scorers.{name}.score" for name in ("BertScore", "ClipScore", "MoverScore", "RegressionScore")),
}
#: The longest that a call may take.
SECONDS = 20


class Forward(BaseException):
    """A forward pass began."""


@dataclass(frozen=True)
class Public:
    """A public callable.

    Attributes:
        name: as users write it, e.g. `"patch"`, `"PatchSweep.top"`, `"corrupt.blur"`.
        function: what is called; methods take the object first.
        owner: the name of the class whose method it is, or None.
        is_class: whether it is a constructor.
    """

    name: str
    function: Callable[..., Any]
    owner: str | None = None
    is_class: bool = False

    @property
    def parameters(self) -> dict[str, inspect.Parameter]:
        """Those a user gives."""
        several = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
        found = inspect.signature(self.function).parameters
        first = self.owner is not None and not inspect.ismethod(self.function)
        return {
            name: p.replace(annotation=getattr(p.annotation, "annotation", p.annotation))
            for number, (name, p) in enumerate(found.items())
            if p.kind not in several and not (first and not number)
        }


def public() -> list[Public]:
    """All public callables of `mmlens.__all__`."""
    found: list[Public] = []
    for name in sorted(mm.__all__):
        value = getattr(mm, name)
        if name in APART:
            continue
        if isinstance(value, types.ModuleType):
            listed = getattr(value, "__all__", None) or [
                key
                for key, item in vars(value).items()
                if str(getattr(item, "__module__", None)).startswith(value.__name__)
            ]
            for key in sorted(listed):
                if not key.startswith("_"):
                    found += _of(
                        f"{name}.{key}" if name in PREFIXED and key not in OWN_NAMES else key, getattr(value, key)
                    )
        else:
            found += _of(name, value)
    found = [item for item in found if item.name not in UNUSED | RECORDS]
    unique: dict[int, Public] = {}
    for item in found:
        unique.setdefault(id(item.function), item)
    return list(unique.values())


def _of(name: str, value: Any) -> list[Public]:
    if not isinstance(value, type):
        return [Public(name, value)] if inspect.isroutine(value) and _is_ours(value) else []
    if issubclass(value, BaseException) or getattr(value, "_is_protocol", False) or not _is_ours(value):
        return []
    found = [Public(name, value, is_class=True)]
    if issubclass(value, Method):  # whose methods the verbs call
        return found
    seen: set[str] = set()
    if issubclass(value, Method):  # what settings do, verbs ask them
        return found
    for base in value.__mro__:
        if not base.__module__.startswith("mmlens"):
            continue
        for key, item in vars(base).items():
            if key.startswith("_") or key in seen or key in INTERNAL:
                continue
            seen.add(key)
            if isinstance(item, classmethod | staticmethod):
                found.append(Public(f"{name}.{key}", getattr(value, key), name))
            elif inspect.isfunction(item):
                found.append(Public(f"{name}.{key}", item, name))
    return found


def _made_anew(cls: Any) -> dict[str, Callable[[], Any]]:
    """The fields of a dataclass whose default is made for each object: a signature shows a placeholder."""
    own = fields(cls) if is_dataclass(cls) else ()
    return {field.name: field.default_factory for field in own if field.default_factory is not MISSING}


def _is_ours(value: Any) -> bool:
    return str(getattr(value, "__module__", "")).startswith("mmlens")


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
        self.public = [item for item in public() if self._can_call(item)]

    def calls(self) -> list[Call]:
        """All calls with one wrong argument."""
        return [
            Call(item, name, kind, value) for item, name, kind in self.places() for value in self.bad(item, name, kind)
        ]

    def places(self) -> list[tuple[Public, str, str]]:
        """Each parameter of each public callable, and what it means."""
        return [
            (item, name, kind_of(item.name, name, self.example(item, name)))
            for item in self.public
            for name in item.parameters
        ]

    def bad(self, item: Public, name: str, kind: str) -> list[Any]:
        """The wrong values of a parameter."""
        parameter = item.parameters[name]
        text = str(parameter.annotation)
        optional = parameter.default is None or "None" in text or "Any" in text
        return bad_values(kind, self.example(item, name), optional=optional)

    def example(self, item: Public, name: str) -> Any:
        """A right value of a parameter."""
        key = self._key(item, name)
        if key is not None:
            if key not in self._made:
                self._made[key] = EXAMPLES[key](self.world)
            return self._made[key]
        default = item.parameters[name].default
        if item.is_class and name in _made_anew(item.function):
            return _made_anew(item.function)[name]()
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

    def _can_call(self, item: Public) -> bool:
        is_ready = item.owner is None or item.owner in OBJECTS or inspect.ismethod(item.function)
        return is_ready and item.name not in AFTER_OTHERS

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
        first = [] if item.owner is None or inspect.ismethod(item.function) else [self._object(item.owner)]
        with _quiet(), self._stopped_at_forward(), _time_limit():
            try:
                value = item.function(*first, **arguments)
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
            except Exception as error:  # noqa: BLE001 - every other error is what is counted
                return Result(call, "unclear", f"{type(error).__name__}: {error}")
            finally:
                self.world.model.reset_hooks()
        return Result(call, "returned", _short(value))

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
