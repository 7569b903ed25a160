"""What any other result shows: its answer in a line, and its table folded away."""

from typing import Any

from PIL import Image

from mmlens.viz.page.pack import Pack, PackTable

_ROWS = 40


def frame_pack(result: Any, picture: Image.Image | None, run: bool = False) -> Pack:
    """The line that the result prints, and the first rows of its frame."""
    to_frame = getattr(result, "to_frame", None)
    headline = repr(result).split("\n")[0]
    if to_frame is None:
        return Pack(headline, picture=picture)
    frame = to_frame()
    rows = tuple(map(tuple, frame.head(_ROWS).to_numpy().tolist()))
    table = PackTable(f"{min(len(frame), _ROWS)} of {len(frame)} rows", tuple(map(str, frame.columns)), rows)
    note = () if len(frame) <= _ROWS else (f"{len(frame) - _ROWS} more rows: .to_frame().",)
    return Pack(headline, picture=picture, tables=(table,), notes=note)
