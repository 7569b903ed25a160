"""What any other result shows: its answer in a line, and its table."""

from typing import Any

from PIL import Image

from mmlens.viz.page.pack import Pack, PackTable

_ROWS = 40


def frame_pack(result: Any, picture: Image.Image | None, run: bool = False) -> Pack:
    """The line that the result prints, and the first rows of its frame."""
    to_frame, summary = (getattr(result, name, None) for name in ("to_frame", "summary"))
    tables = () if summary is None else (table_of(summary(), "Summary")[0],)
    if to_frame is None:
        return Pack(headline_of(result), picture=picture, tables=tables)
    table, notes = table_of(to_frame())
    return Pack(headline_of(result), picture=picture, tables=(*tables, table), notes=notes)


def headline_of(result: Any) -> str:
    """The first line of what a result prints, as a sentence."""
    line, name = repr(result).split("\n")[0], type(result).__name__
    return f"{name}: {line[len(name) + 1 : -1]}." if line.startswith(f"{name}(") and line.endswith(")") else line


def table_of(frame: Any, title: str = "") -> tuple[PackTable, tuple[str, ...]]:
    """The first rows of a frame, and what was left out."""
    rows = tuple(map(tuple, frame.head(_ROWS).astype(object).to_numpy().tolist()))
    columns = tuple(str(name).replace("_", " ") for name in frame.columns)
    count = f"{len(frame)} rows" if len(frame) <= _ROWS else f"{_ROWS} of {len(frame)} rows"
    notes = () if len(frame) <= _ROWS else (f"{len(frame) - _ROWS} more rows: .to_frame().",)
    return PackTable(f"{title}, {count}" if title else count, columns, rows), notes
