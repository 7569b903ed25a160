"""Values stay as they are: dataclasses are frozen, but those that are named here as what a run fills."""

import importlib
from dataclasses import is_dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
ROOMS = ("inputs/patch_geometry", "interventions")
#: Beside these rooms, what is asked for and what answers hold.
OTHERS = ("mmlens.execution.cells", "mmlens.execution.spot_check", "mmlens.hooks.nodes", "mmlens.analysis.statistics")
#: What is filled while something runs.
FILLED = {"Passes", "Touched"}


def test_values_do_not_change() -> None:
    paths = [path for room in ROOMS for path in sorted((ROOT / "mmlens" / room).rglob("*.py"))]
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in paths]
    modules = [importlib.import_module(name) for name in (*names, *OTHERS)]
    kinds = {
        kind
        for module in modules
        for kind in vars(module).values()
        if isinstance(kind, type) and is_dataclass(kind) and kind.__module__ == module.__name__
    }
    assert len(kinds) > 40
    assert {kind.__name__ for kind in kinds if not kind.__dataclass_params__.frozen} == FILLED  # type: ignore[attr-defined]
