"""What a mutation run found: trials in a file, survivors that change nothing that could be seen, a table, a page."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import tomllib

from benchmarks.mutation.mutants import Mutant
from benchmarks.mutation.parts import PATTERNS, ROOT, files_of

_EQUIVALENT = Path(__file__).with_name("equivalent.toml")


@dataclass(frozen=True)
class Result:
    """A mutant and what became of it.

    Attributes:
        file, operator, occurrence, first: the mutant.
        old, new: its line before and after.
        outcome: `killed`, `survived`, `timed out` or `broken` (cannot be imported, which needs no test).
        tests: how many tests could judge it.
        seconds: how long they took.
        seen_by: the test that failed.
    """

    file: str
    operator: str
    occurrence: int
    first: int
    old: str
    new: str
    outcome: str
    tests: int
    seconds: float
    seen_by: str

    @property
    def key(self) -> tuple[str, str, int]:
        """What tells it from other mutants."""
        return self.file, self.operator, self.occurrence


@dataclass(frozen=True)
class Results:
    """The results of one sample.

    Attributes:
        name: of the sample.
        results: in the order in which they came.
    """

    name: str
    results: tuple[Result, ...]

    @classmethod
    def load(cls, path: Path) -> "Results":
        """Results of a file, one a line; none if there is no such file."""
        lines = path.read_text("utf-8").splitlines() if path.exists() else []
        return cls(path.stem, tuple(Result(**json.loads(line)) for line in lines))

    def of_part(self, part: str) -> "Results":
        """Those of one part of the package."""
        files = set(files_of(part))
        return Results(self.name, tuple(result for result in self.results if result.file in files))

    def count(self, *outcomes: str) -> int:
        """How many had one of some outcomes."""
        return sum(result.outcome in outcomes for result in self.results)

    @property
    def survivors(self) -> list[Result]:
        """Those that no test saw."""
        return [result for result in self.results if result.outcome == "survived"]

    @property
    def equivalent(self) -> list[tuple[Result, str]]:
        """Survivors that change nothing that could be seen, and why."""
        reasons = equivalents()
        known = [(result, reasons.get((result.file, result.old, result.new))) for result in self.survivors]
        return [(result, reason) for result, reason in known if reason is not None]

    @property
    def rate(self) -> float:
        """The share that tests saw, of mutants that can be imported and do change something; NaN for none."""
        equivalent = len(self.equivalent)
        seen, missed = self.count("killed", "timed out"), self.count("survived") - equivalent
        return seen / (seen + missed) if seen + missed else float("nan")


def append(path: Path, result: Result) -> None:
    """Add a result to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(result)) + "\n")


def result_of(mutant: Mutant, outcome: str, tests: int, seconds: float, seen_by: str) -> Result:
    """The result of a mutant."""
    old, new = mutant.change
    return Result(
        mutant.file, mutant.operator, mutant.occurrence, mutant.first, old, new, outcome, tests, seconds, seen_by
    )


def equivalents() -> dict[tuple[str, str, str], str]:
    """Why a change of a line changes nothing, by file, line before and line after."""
    entries = tomllib.loads(_EQUIVALENT.read_text("utf-8"))["equivalent"] if _EQUIVALENT.exists() else []
    return {(entry["file"], entry["old"], entry["new"]): entry["why"] for entry in entries}


def table(results: Results) -> str:
    """Markdown: a row per part, and all."""
    rows = [
        "| part | mutants | broken at import | killed | timed out | survived | of these equivalent | kill rate |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, part in [*((part, results.of_part(part)) for part in PATTERNS), ("all", results)]:
        if part.results:
            counts = [part.count(outcome) for outcome in ("broken", "killed", "timed out", "survived")]
            cells = [name, len(part.results), *counts, len(part.equivalent), f"{part.rate:.1%}"]
            rows.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(rows)


def missed(results: Results) -> list[Result]:
    """Survivors that no reason is known for."""
    excused = {result.key for result, _ in results.equivalent}
    return [result for result in results.survivors if result.key not in excused]


def page(samples: Sequence[Results], together: Sequence[Results] = ()) -> str:
    """The page of the documentation.

    Args:
        samples: a section each.
        together: those that a first table adds up.
    """
    lines = [
        "# What the tests see",
        "",
        "Made by `python -m benchmarks.mutation --write docs/mutation.md FILE...`; see `--help` for the runs behind it.",
        "",
        "A mutant is the package with one fault in it, by an operator of [cosmic-ray](https://cosmic-ray.readthedocs.io): "
        "an operator of arithmetic or comparison replaced, a condition negated, a number moved by one, a decorator taken "
        "off, a loop that runs no more. A sample draws places uniformly over the five parts, and one fault at each. "
        "The tests that were seen to run a line judge it, each mutant in a process of its own. Mutants that cannot be "
        "imported need no test, so they do not count; annotations are not changed. The kill rate is of what is left "
        "without the equivalent ones, which are listed with the reason. It is a lower bound: what judges is what was measured "
        "(`--measure`; here the rooms, the contracts, models, patching, circuits and features, not checkpoints, lab and "
        "figures), for each mutant the tests that run its line, as many as take ten seconds (`--budget 10`), the nearest and "
        "the fastest first.",
    ]
    if together:
        whole = Results("all", tuple(result for results in together for result in results.results))
        names = "; ".join(results.name for results in together)
        lines += ["", "## All together", "", f"{names}.", "", table(whole)]
        lines += [
            "",
            "The rate as found says what tests see of faults that nobody looked for; that after the assertions, of these faults.",
        ]
    for results in samples:
        spent = sum(result.seconds for result in results.results) / max(1, len(results.results))
        lines += ["", f"## {results.name}", "", table(results), "", f"{spent:.1f} s a mutant on one core."]
        if not results.name.endswith("as found"):  # what tests see now
            lines += _listed("Survivors that a test should see:", ((result, "") for result in missed(results)))
            lines += _listed("Equivalent:", results.equivalent)
    return "\n".join(lines) + "\n"


def _listed(title: str, results: Iterable[tuple[Result, str]]) -> list[str]:
    entries = [
        f"- `{result.file.removeprefix('mmlens/')}` {result.first}: `{result.old}` -> `{result.new}`{reason and ': ' + reason}"
        for result, reason in results
    ]
    return ["", title, "", *entries] if entries else []


def relative(path: Path) -> str:
    """A path as it is shown."""
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)
