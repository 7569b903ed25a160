"""Everything that users can call: found from the public names, so that nothing new escapes the fuzz.

Functions, constructors and methods of what `mmlens.__all__` and its modules hold, and the methods of what those give back. What
is left out stands here with its reason, and a line that leaves out nothing fails a test.
"""

import functools
import importlib
import inspect
import pkgutil
import re
import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import mmlens as mm
from mmlens.core.registry import Method
from mmlens.core.rules import Rule

#: Modules whose callables are told apart by the module's name; those of the others have names of their own.
PREFIXED = {"corrupt", "data", "edits", "families", "lab", "metrics", "positions", "scorers", "tales"}
OWN_NAMES = {"edit_report", "EditReport", "register_family", "verify"}

#: What a run asks of interventions, of vectors by sample and of rules, and users do not.
ASKED_BY_RUNS = {
    *(
        "acting",
        "change",
        "changed",
        "check",
        "directions",
        "direction",
        "everywhere",
        "finder",
        "hooks",
        "leaves",
        "moved",
    ),
    *("points", "precedes", "reached", "reaches", "require", "require_samples", "starts", "__call__"),
}
PARTS_OF_RUNS = (
    *(mm.Ablate, mm.Add, mm.Clamp, mm.KnockOut, mm.Noise, mm.ProjectOut, mm.Replace, mm.Scale, mm.Steer),
    *(mm.mitigation.BoostAttention, mm.mitigation.RedistributeSinks, Rule),
    *(mm.steering.ActiveConcept, mm.steering.SteeringTable, mm.steering.VectorPredictor, mm.edits.Edit),
)

_LEFT_OUT: dict[str, str] = {
    "a piece of a result, which verbs build": """
        CaptionWord ConceptCount ConceptGrounding ConceptSweep Correlation Edge GenerationTrace GraphNode GraphScores
        GroundedConcept GroundingScores LatentWord PatchEffect Plan RowQuality SampleTop Selection SizeEstimate SplitBest
        StateExplanation StoreCheck Value Drawing families.PointCheck families.VerifyReport scorers.Score scorers.ScoreTable
        scorers.Difference""",
    "what collects, caches and lists activations makes it": """
        ActivationCache ActivationStore HookGraph MappedStates MappedStates.of MappedStates.of_rows data.SampleSet
        ConceptBank.of""",
    "the base of what users write": "Unit Unit.at Unit.parse VectorPredictor VectorPredictor.predict",
    "arguments that are units are read by it": "Units.of",
    "a network's own, which torch calls": "HookedMultimodal.extra_repr",
    "what runs ask of a dictionary that is attached": """
        SparseDictionary.code_gradients SparseDictionary.codes SparseDictionary.flat SparseDictionary.pre_codes
        SparseDictionary.written""",
    "it loads a checkpoint of several gigabytes first": """
        scorers.BertScore.score scorers.ClipScore.score scorers.MoverScore.score scorers.RegressionScore.score""",
    "the command line writes its report": "write_tour",
    "it needs the package of Hugging Face's data sets": "ActivationStore.to_dataset States.to_dataset",
    "declarations ask it": """
        families.DeepStack.read families.DeepStack.into families.DeepStack.side_by_side families.Family.is_image
        families.Family.image_options families.Language.more_tokens families.Norm.is_centred families.Projector.side_by_side
        families.Stack.heads families.Videos.inputs families.Vision.beside""",
}
#: Callables that no user calls, and why.
LEFT_OUT = {name: reason for reason, names in _LEFT_OUT.items() for name in names.split()}
#: Classes whose methods users do not call: TransformerLens's tools do, or what they are an attribute of.
FOREIGN = {
    *("BoundModel", "PartView", "Point", "PointHandle"),
    *("CollectionConfig", "EdgeGraph", "FileShard", "MappedRows", "Places", "Score", "Selection", "Touched"),
}


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
    def takes_object(self) -> bool:
        """Whether it is called on an object."""
        return self.owner is not None and next(iter(inspect.signature(self.function).parameters), "") == "self"

    @property
    def parameters(self) -> dict[str, inspect.Parameter]:
        """Those a user gives."""
        return {
            name: p.replace(annotation=getattr(p.annotation, "annotation", p.annotation))
            for name, p in inspect.signature(self.function).parameters.items()
            if not (name == "self" and self.takes_object)
        }


def public() -> list[Public]:
    """All public callables that users call, each once."""
    return [item for item in every_callable() if item.name not in LEFT_OUT]


def every_callable() -> list[Public]:
    """All public callables, each once."""
    items: dict[object, Public] = {}
    for name, value in public_values():
        if isinstance(value, type):
            for key, item in _of_class(name, value):
                items.setdefault(key, item)
        elif inspect.isroutine(value):
            items.setdefault(value, Public(name, value))
    return list(items.values())


@functools.cache
def public_values() -> list[tuple[str, Any]]:
    """What the public names hold, then the classes of what public functions and methods give back, by their names."""
    for entry in pkgutil.walk_packages(mm.__path__, "mmlens."):
        if not entry.name.endswith("__main__"):
            importlib.import_module(entry.name)
    values = list(_exported(mm, ""))
    seen = {value for _, value in values if isinstance(value, type)}
    queue = [value for _, value in values]
    while queue:
        for cls in _given_back(queue.pop(0)):
            if cls not in seen and cls.__name__ not in FOREIGN:
                seen.add(cls)
                queue.append(cls)
                values.append((cls.__name__, cls))
    return values


def _exported(module: types.ModuleType, prefix: str) -> Iterator[tuple[str, Any]]:
    for name in sorted(module.__all__):
        value = getattr(module, name)
        if isinstance(value, types.ModuleType):
            yield from _exported(value, f"{name}." if name in PREFIXED else "")
        elif str(getattr(value, "__module__", "")).startswith("mmlens"):
            yield (name if name in OWN_NAMES else prefix + name), value


def _given_back(value: Any) -> list[type]:
    """The classes in what a function gives back, or a class's methods, properties and attributes."""
    if isinstance(value, type) and issubclass(value, Method):
        return []
    hints = [(value, getattr(value, "__annotations__", {}).get("return", ""))]
    if isinstance(value, type):
        hints = [(value, hint) for name, hint in inspect.get_annotations(value).items() if not name.startswith("_")]
        for _, item in _members(value):
            function = getattr(item, "fget", None) or getattr(item, "func", None) or getattr(item, "__func__", item)
            hints.append((function, getattr(function, "__annotations__", {}).get("return", "")))
    found: list[type] = []
    for holder, hint in hints:
        names = re.findall(r"\b[A-Z]\w+", hint if isinstance(hint, str) else inspect.formatannotation(hint))
        module = getattr(inspect.unwrap(holder), "__module__", "") if callable(holder) else ""
        found += [cls for name in names if (cls := _class_called(name, module)) is not None]
    return found


def _class_called(name: str, module: str) -> type | None:
    """The class of mmlens that a name in a module's annotations means."""
    cls = vars(sys.modules[module]).get(name) if module in sys.modules else None
    if cls is None:
        named = _classes().get(name, set())
        cls = next(iter(named)) if len(named) == 1 else None
    is_ours = isinstance(cls, type) and cls.__module__.startswith("mmlens") and not getattr(cls, "_is_protocol", False)
    return cls if is_ours else None


@functools.cache
def _classes() -> dict[str, set[type]]:
    """The classes of all modules by their names."""
    named: dict[str, set[type]] = {}
    for path, module in list(sys.modules.items()):
        for name, value in list(vars(module).items()) if path.startswith("mmlens") else ():
            if isinstance(value, type) and value.__module__ == path:
                named.setdefault(name, set()).add(value)
    return named


def _members(cls: type) -> Iterator[tuple[str, Any]]:
    """The public members of a class and of its bases in mmlens; also what calls and subscripts do."""
    seen: set[str] = set()
    for base in cls.__mro__:
        for name, item in list(vars(base).items()) if base.__module__.startswith("mmlens") else ():
            is_asked = name in ASKED_BY_RUNS and issubclass(cls, PARTS_OF_RUNS)
            if name not in seen and not is_asked and (name in ("__call__", "__getitem__") or not name.startswith("_")):
                seen.add(name)
                yield name, item


def _of_class(name: str, cls: type) -> Iterator[tuple[object, Public]]:
    if issubclass(cls, BaseException) or getattr(cls, "_is_protocol", False):
        return
    if name in dict(_exported(mm, "")):
        yield cls, Public(name, cls, is_class=True)
    if issubclass(cls, Method):  # verbs call what settings do
        return
    for key, item in _members(cls):
        if isinstance(item, classmethod | staticmethod):
            yield (cls, key), Public(f"{name}.{key}", getattr(cls, key), name)
        elif inspect.isfunction(item):
            yield (cls, key), Public(f"{name}.{key}", item, name)
