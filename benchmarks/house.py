"""The shape of the code, one column a checkout: `python -m benchmarks.house [PATH ...]`; two paths give before and after."""

import argparse
import ast
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import networkx as nx

from benchmarks.naming import is_participle_or_pronoun
from benchmarks.table import as_columns

#: The rooms, from the ground up; a file imports from its own room and from those before it (CONTRIBUTING.md).
ROOMS = (
    "core", "hooks", "declarations", "inputs", "architectures", "discover", "models", "execution", "interventions",
    "analysis", "viz", "lab", "recipes", "cli",
)  # fmt: skip

_ENTERED = """
import sys
import mmlens as mm

model, scene = mm.lab.load(), mm.lab.scene(seed=7)
clean = model.prepare("what color is the big red circle", images=scene.image)
corrupted = mm.corrupt.twin(model, clean, [scene.twin(object=0, color="blue").image])
metric = mm.metrics.logit_difference("red", "blue")
codes = set()
sys.setprofile(lambda frame, event, argument: codes.add(frame.f_code) if event == "call" else None)
mm.patch(model, clean, corrupted, at="blocks.*.hook_resid_pre", metric=metric, progress=False)
sys.setprofile(None)
codes = {code for code in codes if code.co_filename.startswith(mm.__path__[0])}
functions = {code for code in codes if not code.co_name.startswith("<")}
modules = [mm, *(getattr(mm, name) for name in mm.__all__ if isinstance(getattr(mm, name), type(mm)))]
names = {
    name for module in modules for name in getattr(module, "__all__", dir(module))
    if not name.startswith("_") and not isinstance(getattr(module, name), type(mm))
}
folded = [name.casefold() for name in names]
print(len({code.co_filename for code in codes}))
print(len(functions))
print(len(mm.__all__))
print(len([name for name in names if folded.count(name.casefold()) > 1]))
"""


@dataclass(frozen=True)
class Import:
    """One import between two files of the package, wherever it stands: in a function and under TYPE_CHECKING too.

    Attributes:
        source: the module that imports.
        target: the module that is imported.
    """

    source: str
    target: str


@dataclass(frozen=True)
class House:
    """A package as its files stand: a folder of Python files, read and never run.

    Attributes:
        package: the package's folder.
    """

    package: Path

    @cached_property
    def trees(self) -> dict[str, ast.Module]:
        """The syntax tree of each file by its dotted name; a folder's `__init__.py` has the folder's name."""
        return {self._module(path): ast.parse(path.read_text()) for path in sorted(self.package.rglob("*.py"))}

    @cached_property
    def imports(self) -> list[Import]:
        """Every import of one file of the package by another."""
        return [
            Import(name, target)
            for name, tree in self.trees.items()
            for node in ast.walk(tree)
            if isinstance(node, ast.Import | ast.ImportFrom)
            for target in self._targets(name, node)
            if target != name
        ]

    @cached_property
    def graph(self) -> nx.DiGraph:
        """Files as nodes, imports as edges."""
        return nx.DiGraph((edge.source, edge.target) for edge in self.imports)

    @property
    def circles(self) -> list[list[str]]:
        """Files that import each other in a loop: strongly connected components of more than one file."""
        return sorted(sorted(files) for files in nx.strongly_connected_components(self.graph) if len(files) > 1)

    def closure(self, module: str) -> set[str]:
        """The files that one file imports, directly or through others, itself among them."""
        return {module, *nx.descendants(self.graph, module)}

    @property
    def upward(self) -> list[Import]:
        """Imports of a room by one that stands before it in `ROOMS`; rooms that are not listed there are not judged."""
        order = {room: place for place, room in enumerate(ROOMS)}
        return [
            edge
            for edge in self.imports
            if order.get(_room(edge.target), -1) > order.get(_room(edge.source), len(ROOMS))
        ]

    @property
    def names(self) -> Counter[str]:
        """Parameters and local variables of every function, one count for each function that has the name."""
        return Counter(
            name
            for tree in self.trees.values()
            for node in ast.walk(tree)
            if _is_function(node)
            for name in _names(node)
        )

    @property
    def share_of_participles(self) -> float:
        """Share of the names of parameters and locals that are participles or pronouns (`benchmarks.naming`)."""
        names = self.names
        return sum(n for name, n in names.items() if is_participle_or_pronoun(name)) / max(names.total(), 1)

    @property
    def type_ignores(self) -> int:
        """Lines with a `type: ignore`."""
        return sum(
            "type: ignore" in line for path in self.package.rglob("*.py") for line in path.read_text().splitlines()
        )

    @property
    def lines(self) -> Counter[str]:
        """Lines by room; files at the top of the package are rooms of their own."""
        counts: Counter[str] = Counter()
        for path in self.package.rglob("*.py"):
            counts[_room(self._module(path))] += len(path.read_text().splitlines())
        return counts

    @property
    def doubles(self) -> list[str]:
        """Names of public functions and classes that two files define at their top level."""
        return sorted(name for name, count in Counter(self._definitions()).items() if count > 1)

    def _definitions(self) -> Iterator[str]:
        for tree in self.trees.values():
            for node in tree.body:
                if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                    yield node.name

    def _module(self, path: Path) -> str:
        parts = path.relative_to(self.package.parent).with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    def _targets(self, module: str, node: ast.Import | ast.ImportFrom) -> set[str]:
        if isinstance(node, ast.Import):
            return {alias.name for alias in node.names if alias.name in self.trees}
        base = node.module or ""
        modules = {f"{base}.{alias.name}" if f"{base}.{alias.name}" in self.trees else base for alias in node.names}
        return modules & self.trees.keys()


def measures(checkout: Path) -> dict[str, str]:
    """The measures of one checkout, as text by name: those of reading, and for mmlens also those of a run.

    The run is the first `mm.patch` over `resid_pre` of the lab model in a fresh process, with default positions; what it
    enters is counted by `sys.setprofile`: files of mmlens, and functions and methods (no comprehension, lambda or module
    body). Names that may differ by case alone are those of `mm` and of the modules that it makes public.

    Args:
        checkout: a checkout of mmlens, or the folder of any package, which is read only.
    """
    is_checkout = (checkout / "mmlens" / "__init__.py").is_file()
    house = House(checkout / "mmlens" if is_checkout else checkout)
    rows = {}
    if is_checkout:
        files, functions, public, twins = _entered(checkout)
        rows["files that mm.patch enters"] = files
        rows["functions that mm.patch enters"] = functions
        rows["import closure of mm.patch, files"] = str(len(house.closure("mmlens.analysis.patching.sweep")))
        rows["top-level public names"] = public
        rows["public names that differ by case alone"] = twins
    rows |= {
        "circles of imports": str(len(house.circles)),
        "files in circles": str(sum(map(len, house.circles))),
        "imports that go up": str(len(house.upward)),
        "type: ignore": str(house.type_ignores),
        "names that are participles or pronouns": f"{house.share_of_participles:.1%}",
        "public names defined twice": str(len(house.doubles)),
        "lines": str(house.lines.total()),
    }
    lines = house.lines
    if is_checkout:
        rows |= {f"lines of {room}": str(lines[room]) for room in (*ROOMS, *sorted(lines.keys() - set(ROOMS)))}
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Print one table of the checkouts that are named, by default the current folder."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.house", description=__doc__)
    parser.add_argument("paths", nargs="*", type=Path, default=[Path()], metavar="PATH", help="a checkout or a package")
    parser.add_argument(
        "--details", action="store_true", help="also list circles, imports that go up, doubles and names"
    )
    options = parser.parse_args(arguments)
    columns = [measures(path.resolve()) for path in options.paths]
    names = list(dict.fromkeys(name for column in columns for name in column))
    header = ["measure", *map(str, options.paths)]
    print(as_columns([header, *([name, *(column.get(name, "-") for column in columns)] for name in names)]))
    if options.details:
        for path in options.paths:
            _print_details(path.resolve())
    return 0


def _print_details(checkout: Path) -> None:
    house = House(checkout / "mmlens" if (checkout / "mmlens").is_dir() else checkout)
    print(f"\n{checkout}")
    print("circles:", *(", ".join(circle) for circle in house.circles), sep="\n  ")
    print("up:", *sorted({f"{edge.source} -> {edge.target}" for edge in house.upward}), sep="\n  ")
    print("defined twice:", ", ".join(house.doubles))
    bad = [(name, count) for name, count in house.names.most_common() if is_participle_or_pronoun(name)]
    print("participles and pronouns:", ", ".join(f"{name} {count}" for name, count in bad))


def _entered(checkout: Path) -> list[str]:
    """What one run enters, measured in a process of its own that imports the checkout's mmlens."""
    result = subprocess.run(
        [sys.executable, "-c", _ENTERED],
        cwd=checkout, check=True, capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    return result.stdout.split()


def _is_function(node: ast.AST) -> bool:
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)


def _names(function: ast.AST) -> set[str]:
    """Parameters and assigned names of one function; those of functions inside it are theirs."""
    assert isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
    arguments = function.args
    names = {a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)}
    names |= {a.arg for a in (arguments.vararg, arguments.kwarg) if a}
    nodes: list[ast.AST] = [] if isinstance(function, ast.Lambda) else list(function.body)
    while nodes:
        node = nodes.pop()
        if _is_function(node) or isinstance(node, ast.ClassDef):
            continue
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        nodes += ast.iter_child_nodes(node)
    return names


def _room(module: str) -> str:
    return module.split(".")[1] if "." in module else "(top)"


if __name__ == "__main__":
    sys.exit(main())
