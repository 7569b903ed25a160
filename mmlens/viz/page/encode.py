"""Packs as JSON for the viewer: numbers compressed layer by layer, many of them in a byte each, pictures as WebP.

Few numbers are kept as float32. Of many, each is the square root of its share of its row's largest magnitude (rows: along the
last axis), so that small values keep their order; the largest magnitudes are float32. Off by half a step at most: 0.4% of the
row's largest, 0.8% of it where there are two signs.
"""

import base64
import io
import zlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from jaxtyping import Float, Int8, UInt8
from matplotlib import colormaps
from PIL import Image

from mmlens.core.palette import DIVERGING, OVER_PICTURE
from mmlens.viz.page.pack import Pack, PackArray, PackWords, Sheet, largest_of

_STEPS, _SIGNED_STEPS = 254, 127
#: So many numbers of an array are kept as they are: 16 kB.
EXACT = 4096
#: The codes of NaN.
_NOTHING, _SIGNED_NOTHING = 255, -128
#: The longer side of a picture in a view, in pixels.
PICTURE_SIDE = 768


def encode_pack(pack: Pack, arrays: Mapping[str, dict[str, Any]] = MappingProxyType({})) -> dict[str, Any]:
    """A pack as plain data, ready for `json.dumps`; arrays that are encoded already need not be again."""
    return {
        "headline": pack.headline,
        **({"picture": None} if pack.picture is None else _sheet(Sheet(pack.picture, pack.boxes))),
        "caption": pack.caption,
        "sheets": list(map(_sheet, pack.sheets)),
        "runs": list(pack.runs),
        "drawing": pack.drawing,
        "ranked": None if pack.ranked is None else vars(pack.ranked),
        "start": dict(pack.start),
        "labels": {axis: list(names) for axis, names in pack.labels.items()},
        "arrays": [
            {**(arrays.get(array.name) or encode_array(array)), "control": array.control} for array in pack.arrays
        ],
        "words": None if pack.words is None else _words(pack.words),
        "outlines": [list(box) for box in pack.outlines],
        "tables": [
            {"title": t.title, "columns": t.columns, "rows": [list(map(_cell, row)) for row in t.rows]}
            for t in pack.tables
        ],
        "notes": list(pack.notes),
        "colors": {"signed": _colors(DIVERGING), "map": _colors(OVER_PICTURE)},
    }


def _sheet(sheet: Sheet) -> dict[str, Any]:
    return {
        "picture": encode_picture(sheet.picture),
        "size": list(sheet.picture.size),
        "boxes": None if sheet.boxes is None else np.round(sheet.boxes, 2).ravel().tolist(),
        "caption": sheet.caption,
    }


def encode_array(array: PackArray) -> dict[str, Any]:
    """An array: a chunk for each entry of its first axis, of its first two where it has four; none where all is NaN."""
    values = np.asarray(array.values, dtype=np.float32)
    apart = min(values.ndim - 1, 1 if values.ndim < 4 else 2)
    pieces = list(values.reshape(-1, *values.shape[apart:]))
    least, largest = float(values[np.isfinite(values)].min(initial=np.inf)), largest_of(values)
    least = least if np.isfinite(least) else 0.0
    signed = bool(least < 0)
    exact = values.size <= EXACT
    blank = [bool(np.isnan(piece.flat[0]) and np.isnan(piece).all()) for piece in pieces]
    nothing = np.zeros(0, np.uint8), np.zeros(values.shape[apart:-1], np.float32)
    coded = [
        nothing if exact or none else quantised(piece, signed=signed) for piece, none in zip(pieces, blank, strict=True)
    ]
    raw = [piece.astype("<f4").tobytes() for piece in pieces] if exact else [codes.tobytes() for codes, _ in coded]
    return {
        "name": array.name,
        "title": array.title,
        "axes": list(array.axes),
        "shape": list(values.shape),
        "unit": array.unit,
        "scale": array.scale,
        "least": least,
        "limit": array.limit if isinstance(array.limit, float) else largest,
        "each": array.limit == "each",
        "control": array.control,
        "signed": signed,
        "exact": exact,
        "texts": array.texts,
        "run": array.run,
        "apart": apart,
        "chunks": ["" if none else _base64(zlib.compress(data, 6)) for data, none in zip(raw, blank, strict=True)],
        "largest": ""
        if exact
        else _base64(np.concatenate([rows.ravel() for _, rows in coded]).astype("<f4").tobytes()),
    }


def quantised(
    values: Float[np.ndarray, "*rows entry"], *, signed: bool
) -> tuple[UInt8[np.ndarray, "*rows entry"] | Int8[np.ndarray, "*rows entry"], Float[np.ndarray, "*rows"]]:
    """Numbers as bytes, and the largest magnitude of each row."""
    magnitude = np.abs(values)
    largest = np.where(np.isfinite(magnitude), magnitude, 0).max(-1)
    share = np.sqrt(magnitude / np.where(largest == 0, 1, largest)[..., None])
    known = np.isfinite(share)
    steps = np.round(np.where(known, share, 0) * (_SIGNED_STEPS if signed else _STEPS))
    if not signed:
        return np.where(known, steps, _NOTHING).astype(np.uint8), largest
    return np.where(known, np.sign(np.where(known, values, 0)) * steps, _SIGNED_NOTHING).astype(np.int8), largest


def decoded(encoded: dict[str, Any]) -> Float[np.ndarray, "..."]:
    """The numbers that the viewer reads out of an encoded array; what tests compare with what was put in."""
    blank = np.full(encoded["shape"][encoded["apart"] :], np.nan, "<f4").tobytes() if encoded["exact"] else None
    if blank is None:
        count = int(np.prod(encoded["shape"][encoded["apart"] :]))
        blank = (
            np.full(count, _SIGNED_NOTHING if encoded["signed"] else _NOTHING)
            .astype(np.int8 if encoded["signed"] else np.uint8)
            .tobytes()
        )
    raw = b"".join(zlib.decompress(base64.b64decode(chunk)) if chunk else blank for chunk in encoded["chunks"])
    if encoded["exact"]:
        return np.frombuffer(raw, "<f4").reshape(encoded["shape"]).astype(np.float64)
    codes = np.frombuffer(raw, np.int8 if encoded["signed"] else np.uint8).reshape(encoded["shape"]).astype(np.float64)
    largest = np.frombuffer(base64.b64decode(encoded["largest"]), "<f4").reshape(encoded["shape"][:-1])
    nothing, steps = (_SIGNED_NOTHING, _SIGNED_STEPS) if encoded["signed"] else (_NOTHING, _STEPS)
    values = np.sign(codes) * (codes / steps) ** 2 * largest[..., None]
    return np.where(codes == nothing, np.nan, values)


def encode_picture(picture: Image.Image) -> str:
    """A picture as a data URI, drawn no larger than a view needs it."""
    small = picture.convert("RGB")
    if max(small.size) > PICTURE_SIDE:
        small.thumbnail((PICTURE_SIDE, PICTURE_SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=88, method=2)
    return f"data:image/webp;base64,{_base64(buffer.getvalue())}"


def _words(words: PackWords) -> dict[str, Any]:
    shares = np.nan_to_num(words.probabilities)
    return {
        "shape": [*(() if words.ids.ndim > 3 else (1,)), *words.ids.shape],
        "strings": list(words.strings),
        "ids": _base64(zlib.compress(words.ids.astype("<u2" if len(words.strings) < 65_536 else "<u4").tobytes(), 6)),
        "wide": len(words.strings) >= 65_536,
        "shares": _base64(zlib.compress(np.round(shares * 255).astype(np.uint8).tobytes(), 6)),
    }


def _cell(value: object) -> object:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return None if value != value else float(f"{value:.5g}")
    return value if isinstance(value, int | str | bool) or value is None else str(value)


def _colors(name: str) -> str:
    """64 steps of a colour map, three bytes each."""
    table = colormaps[name](np.linspace(0, 1, 64))[:, :3]
    return _base64(np.round(table * 255).astype(np.uint8).tobytes())


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
