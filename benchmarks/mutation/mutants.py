"""Single faults of a file, by the operators of cosmic-ray, and a seeded sample of them."""

import ast
import random
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property

import parso.tree  # noqa: F401 (cosmic-ray imports parso.python first, which is a circle)
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

from benchmarks.mutation.parts import PATTERNS, ROOT, files_of


@dataclass(frozen=True)
class Mutant:
    """One fault in one place.

    Attributes:
        file: relative to the repository.
        operator: name of cosmic-ray's operator.
        occurrence: which of the places where the operator can be used in the file.
        first, last: lines of the place.
    """

    file: str
    operator: str
    occurrence: int
    first: int
    last: int

    @cached_property
    def source(self) -> str:
        """The file with the fault in it."""
        mutated = mutate_code(text_of(self.file), _operators()[self.operator], self.occurrence)
        if mutated is None:
            raise ValueError(f"{self.file} has no occurrence {self.occurrence} of {self.operator}; was it changed?")
        return str(mutated)

    @property
    def change(self) -> tuple[str, str]:
        """The line before and after."""
        lines = zip(text_of(self.file).splitlines(), self.source.splitlines(), strict=False)
        return next(((old.strip(), new.strip()) for old, new in lines if old != new), ("", ""))


@cache
def text_of(file: str) -> str:
    """Source of a file of the repository."""
    return (ROOT / file).read_text("utf-8")


@cache
def _operators() -> dict:
    classes = {name: get_operator(name) for name in sorted(operator_names())}
    return {name: operator() for name, operator in classes.items() if not operator.arguments()}


def mutants_of(file: str) -> list[Mutant]:
    """All faults of a file but those in what never runs: annotations, and what only type checkers read."""
    tree = get_ast(text_of(file))
    nodes = list(ast_nodes(tree))
    idle = list(_idle_ranges(ast.parse(text_of(file))))
    result = []
    for name, operator in _operators().items():
        places = (place for node in nodes for place in operator.mutation_positions(node))
        for occurrence, (start, stop) in enumerate(places):
            if not any(first <= start < last for first, last in idle):
                result.append(Mutant(file, name, occurrence, start[0], stop[0]))
    return result


def sampled(size: int, seed: int, parts: list[str]) -> list[Mutant]:
    """A sample over parts, in proportion to the places where they can be changed: one fault at each place drawn."""
    places: dict[tuple[str, int, int, str], list[Mutant]] = defaultdict(list)
    for part in PATTERNS:
        for file in files_of(part):
            for mutant in mutants_of(file):
                kind = mutant.operator.split("_")[0]
                places[file, mutant.first, mutant.last, kind].append(mutant)
    generator = random.Random(seed)
    drawn = [generator.choice(places[place]) for place in generator.sample(sorted(places), size)]
    chosen = {file for part in parts for file in files_of(part)}
    return [mutant for mutant in drawn if mutant.file in chosen]


def found_again(file: str, operator: str, occurrence: int, change: tuple[str, str]) -> Mutant | None:
    """A mutant of an earlier run, wherever its line is now; None if the line has changed."""
    same = [mutant for mutant in mutants_of(file) if mutant.operator == operator]
    nearest = sorted(same, key=lambda mutant: abs(mutant.occurrence - occurrence))
    return next((mutant for mutant in nearest[:25] if mutant.change == change), None)


def _idle_ranges(tree: ast.Module) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """Where nothing runs that a test could see: (line, column) of beginning and end."""
    for node in ast.walk(tree):
        idle: list[ast.expr | ast.stmt | None] = []
        if isinstance(node, ast.arg):
            idle.append(node.annotation)
        elif isinstance(node, ast.FunctionDef):
            idle.append(node.returns)
        elif isinstance(node, ast.AnnAssign):
            idle += [node.annotation, node.value if "TypeAlias" in ast.unparse(node.annotation) else None]
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            idle.append(node)
        for part in idle:
            if part is not None and part.end_lineno is not None and part.end_col_offset is not None:
                yield (part.lineno, part.col_offset), (part.end_lineno, part.end_col_offset)
