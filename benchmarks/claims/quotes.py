"""Figures that stand in a table of the documents: a sentence says what the table says."""

import re
from collections.abc import Mapping

from benchmarks.claims.claim import number
from benchmarks.claims.documents import FIGURE, Document


def cell(document: str, heading: str, row: Mapping[str, str] | str, column: str, *, first: str = "") -> str:
    """A cell of a table.

    Args:
        document, heading, first: which table; as `Document.table`.
        row: what the row has in some columns; or in its first one.
        column: the cell's column.

    Raises:
        LookupError: if there is not one such row, or no such column.
    """
    rows = Document(document).table(heading, first=first)
    conditions = {next(iter(rows[0])): row} if isinstance(row, str) else row
    found = [line for line in rows if all(line.get(name) == value for name, value in conditions.items())]
    if len(found) != 1 or column not in found[0]:
        raise LookupError(f"{len(found)} rows {dict(conditions)} under {heading!r} of {document}; column {column!r}.")
    return found[0][column]


def numbers(text: str) -> list[float]:
    """All numbers of a cell."""
    return [number(found) for found in re.findall(rf"(?<![\w.])(?:{FIGURE})", text)]


def quoted(document: str, heading: str, row: Mapping[str, str] | str, column: str, *, first: str = "") -> float:
    """The first number of a cell."""
    return numbers(cell(document, heading, row, column, first=first))[0]
