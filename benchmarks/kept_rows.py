"""Rows on the screen and in a file as soon as they are there, so that a run that is stopped keeps them and can go on."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.measure import Ratio
from benchmarks.table import Row
from mmlens.core.files import whole_file


class OtherSettingsError(ValueError):
    """A file holds rows that were measured in another way."""


@dataclass
class KeptRows:
    """The rows of a run of the benchmarks.

    Attributes:
        settings: how they are measured; a run that goes on must have the same.
        path: the file; None to keep none.
        rows: those of each benchmark, in order.
        finished: benchmarks of which all rows are there.
    """

    settings: dict[str, Any]
    path: Path | None = None
    rows: dict[str, list[Row]] = field(default_factory=dict)
    finished: list[str] = field(default_factory=list)

    def resume(self) -> None:
        """Take over what the file holds of finished benchmarks, if it is there.

        Raises:
            OtherSettingsError: if they were measured in another way; says in which.
        """
        if self.path is None or not self.path.is_file():
            return
        kept = json.loads(self.path.read_text())
        others = [f"{key} {kept.get(key)!r}" for key, value in self.settings.items() if kept.get(key) != value]
        if others:
            raise OtherSettingsError(
                f"{self.path} was measured with {', '.join(others)}; take another file, or the same settings."
            )
        self.finished = list(kept["finished"])
        for row in kept["rows"]:
            if row["part"] in self.finished:
                self.rows.setdefault(row["part"], []).append(_row(row))

    def add(self, part: str, rows: Sequence[Row]) -> None:
        """Keep rows of a benchmark."""
        self.rows.setdefault(part, []).extend(rows)
        self._write()

    def finish(self, part: str) -> None:
        """Mark a benchmark as whole: it is not run again."""
        self.finished.append(part)
        self._write()

    def _write(self) -> None:
        if self.path is None:
            return
        rows = [{**row.as_json(), "part": part} for part, group in self.rows.items() for row in group]
        with whole_file(self.path) as file:
            file.write_text(json.dumps({**self.settings, "finished": self.finished, "rows": rows}, indent=2))


def _row(kept: dict[str, Any]) -> Row:
    """A row as it was before it was written."""
    values = {key: value for key, value in kept.items() if key not in ("met", "part")}
    ratio = values.pop("ratio")
    return Row(**values, ratio=None if ratio is None else Ratio(**ratio))
