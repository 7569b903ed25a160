"""Values stay as they are: dataclasses are frozen, but those that are named here as what a run fills or a model holds."""

import importlib
from dataclasses import fields, is_dataclass
from inspect import isabstract
from pathlib import Path

from torch.nn import Module

PACKAGE = Path(__file__).parents[1] / "mmlens"
#: Where values are asked for and answered.
ROOMS = (
    "mmlens.core.",
    "mmlens.hooks.",
    "mmlens.inputs.",
    "mmlens.execution.",
    "mmlens.interventions.",
    "mmlens.analysis.statistics.intervals",
)
#: What is filled while something runs, is built, or is kept beside a model.
FILLED = {
    *("Attended", "CellRuns", "Entered", "ExecutionStrategies", "Job", "KernelCall", "Passes", "Recording", "Touched"),
    *("SplitReading", "Tower", "Verdicts", "_Path"),
}
#: Fields that are not printed: long, or a memory of runs.
HIDDEN = {
    *(
        "Ablate.value",
        "Add.direction",
        "Change.apply",
        "Replace.values",
        "Provenance.losses",
        "ResolvedPositions._memory",
    ),
    *("MultimodalBatch.carried", "MultimodalBatch.images", "MultimodalBatch.tokenizer", "MultimodalBatch.videos"),
    *("ProjectOut._moved", "ProjectOut.gate", "ProjectOut.touched", "Steer._moved", "Steer.gate", "Steer.touched"),
    *("Touched._passes", "Touched._rows", "Touched._windows"),
}
#: Classes with annotated names and another constructor.
NO_VALUES = {"Judge", "Pixels", "Saved", "SequenceRows", "_Caught"}


def classes() -> set[type]:
    """All classes of the package."""
    paths = [path.relative_to(PACKAGE.parent).with_suffix("") for path in PACKAGE.rglob("*.py")]
    names = [".".join(path.parts).removesuffix(".__init__") for path in paths if path.stem != "__main__"]
    modules = [importlib.import_module(name) for name in sorted(names)]
    found = [(module, kind) for module in modules for kind in vars(module).values()]
    kinds = {kind for module, kind in found if isinstance(kind, type) and kind.__module__ == module.__name__}
    return {kind for kind in kinds if kind.__module__.startswith(ROOMS)}


def name_of(kind: type) -> str:
    """A class's name, with its module's where several have it."""
    return f"{kind.__module__.rpartition('.')[2]}.{kind.__name__}" if kind.__name__ == "Call" else kind.__name__


def test_values_do_not_change() -> None:
    kinds = {kind for kind in classes() if is_dataclass(kind) and "__dataclass_params__" in vars(kind)}
    assert len(kinds) > 100
    filled = {name_of(kind) for kind in kinds if not kind.__dataclass_params__.frozen}  # type: ignore[attr-defined]
    assert filled == FILLED
    assert {f"{kind.__name__}.{field.name}" for kind in kinds for field in fields(kind) if not field.repr} >= HIDDEN


def test_what_names_its_fields_is_a_dataclass() -> None:
    """Else it has no constructor that takes them."""
    plain = {
        kind.__name__
        for kind in classes()
        if vars(kind).get("__annotations__")
        and not {"__init__", "__dataclass_params__"} & set(vars(kind))
        and not issubclass(kind, tuple | dict | Exception | Module)
        and not isabstract(kind)
    }
    assert plain == NO_VALUES
