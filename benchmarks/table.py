"""Rows of the result, one table of them, and the line that says on what machine they were measured."""

import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import Ratio


@dataclass(frozen=True)
class Row:
    """One contender in one benchmark.

    Attributes:
        benchmark: what was done.
        contender: who did it.
        milliseconds: median; None if it could not run.
        ratio: to the limit of the same benchmark; None where there is none.
        target: what `ratio` must not exceed, or with no ratio, `milliseconds`; None for orientation only.
        difference: largest absolute difference of the answers from the limit's.
        note: what a reader should know.
    """

    benchmark: str
    contender: str
    milliseconds: float | None = None
    ratio: Ratio | None = None
    target: float | None = None
    difference: float | None = None
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the target was met; None if there is no target or no measurement."""
        value = self.milliseconds if self.ratio is None else self.ratio.median
        return None if self.target is None or value is None else value <= self.target

    @property
    def cells(self) -> list[str]:
        """The row as text."""
        target = "" if self.target is None else f"<= {self.target:.2f}x" if self.ratio else f"<= {self.target:.0f} ms"
        return [
            self.benchmark,
            self.contender,
            "-" if self.milliseconds is None else f"{self.milliseconds:.2f}",
            "-" if self.ratio is None else str(self.ratio),
            target,
            {True: "yes", False: "NO", None: ""}[self.met],
            "-" if self.difference is None else f"{self.difference:.1e}" if self.difference else "0",
            self.note,
        ]

    def as_json(self) -> dict[str, Any]:
        """The row as plain data, with whether its target was met."""
        return {**asdict(self), "met": self.met}


HEADER = ["benchmark", "who", "median ms", "ratio [quartiles]", "target", "met", "difference", "note"]
_NUMBERS = (2, 3, 4, 6)


def as_table(rows: Sequence[Row], *, header: bool = True) -> str:
    """An aligned Markdown table; a benchmark's name stands on its first row only.

    Args:
        rows: in order.
        header: begin with the names of the columns; without, the rows go on with a table that has them.
    """
    lines = [HEADER]
    before = None
    for row in rows:
        cells = row.cells
        lines.append(["" if row.benchmark == before else cells[0], *cells[1:]])
        before = row.benchmark
    table = as_columns(lines, right=_NUMBERS)
    return table if header else table.split("\n", 2)[2]


def as_columns(lines: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> str:
    """An aligned Markdown table of cells; the first line is its header, and columns in `right` are aligned right."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]

    def text(line: Sequence[str]) -> str:
        cells = [cell.rjust(w) if i in right else cell.ljust(w) for i, (cell, w) in enumerate(zip(line, widths))]
        return f"| {' | '.join(cells)} |"

    rule = [("-" * (w - 1) + ":") if i in right else "-" * w for i, w in enumerate(widths)]
    return "\n".join([text(lines[0]), text(rule), *map(text, lines[1:])])


def machine(*, load: bool = True) -> str:
    """One line: processor, cores, how busy they are (if wanted), versions, threads, device."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no CUDA device"
    busy = f" (load {os.getloadavg()[0]:.1f})" if load and hasattr(os, "getloadavg") else ""
    return (
        f"{_processor()}, {os.cpu_count()} cores{busy}, {device}; Python {platform.python_version()}, "
        f"torch {torch.__version__}, {torch.get_num_threads()} threads"
    )


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
