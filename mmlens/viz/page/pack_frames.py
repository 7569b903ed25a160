"""What any other result shows: its answer in a line, and its table."""

import inspect
from collections.abc import Callable
from typing import Any

from PIL import Image

from mmlens.core.errors import InputError
from mmlens.viz.page.pack import Pack, PackTable

_ROWS, _COLUMNS = 40, 24


def frame_pack(result: Any, picture: Image.Image | None, run: bool = False) -> Pack:
    """The line that the result prints, and the first rows of its frame."""
    to_frame, summary = (getattr(result, name, None) for name in ("to_frame", "summary"))
    tables = () if summary is None else (table_of(summary(), "Summary")[0],)
    if to_frame is None:
        return Pack(headline_of(result), picture=picture, tables=tables)
    frame, unread = _frame(to_frame)
    table, notes = table_of(frame)
    return Pack(headline_of(result), picture=picture, tables=(*tables, table), notes=(*unread, *notes))


def _frame(to_frame: Callable[..., Any]) -> tuple[Any, tuple[str, ...]]:
    """The frame; without words where these cannot be read any more, as those of features whose dictionary was detached."""
    try:
        return to_frame(), ()
    except InputError as error:
        if "words" not in inspect.signature(to_frame).parameters:
            raise
        return to_frame(words=0), (f"Words cannot be read here: {str(error).splitlines()[0]}",)


def headline_of(result: Any) -> str:
    """The first line of what a result prints, as a sentence."""
    line, name = repr(result).split("\n")[0], type(result).__name__
    return f"{name}: {line[len(name) + 1 : -1]}." if line.startswith(f"{name}(") and line.endswith(")") else line


def table_of(frame: Any, title: str = "") -> tuple[PackTable, tuple[str, ...]]:
    """The first rows of a frame, and what was left out."""
    part = frame.iloc[:_ROWS, :_COLUMNS]
    rows = tuple(map(tuple, part.astype(object).to_numpy().tolist()))
    columns = tuple(str(name).replace("_", " ") for name in part.columns)
    count = f"{len(frame)} rows" if len(frame) <= _ROWS else f"{_ROWS} of {len(frame)} rows"
    more = [
        f"{size - limit} more {name}"
        for size, limit, name in zip(frame.shape, (_ROWS, _COLUMNS), ("rows", "columns"), strict=True)
        if size > limit
    ]
    notes = (f"{' and '.join(more)}: .to_frame().",) if more else ()
    return PackTable(f"{title}, {count}" if title else count, columns, rows), notes
