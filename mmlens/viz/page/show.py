"""Views of results: the pack of each kind of result, put into the viewer's HTML."""

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from html import escape
from importlib.resources import files
from types import MappingProxyType
from typing import Any, Literal

from mmlens.analysis.attention.looks import AttentionLooks
from mmlens.core.errors import MMLensError
from mmlens.core.view import Display, View
from mmlens.inputs.images import Picture, load_image
from mmlens.viz.page.encode import encode_array, encode_pack
from mmlens.viz.page.pack import Pack
from mmlens.viz.page.pack_frames import headline_of
from mmlens.viz.page.pack_looks import looks_pack
from mmlens.viz.page.packs import pack_of
from mmlens.viz.page.still import encoded, still_of

#: What a view may weigh by default, in bytes: a notebook with ten of them is still opened at once.
BUDGET = 2_000_000
#: What looks with the maps of all heads may weigh.
BUDGET_ALL = 16_000_000
#: Rows of a table that is seen without scripts.
_STILL_ROWS = 12
#: Finds the piece that has no viewer yet (a result that is shown twice has its number twice), and starts it.
_START = (
    'const n="mmlens-"+Math.random().toString(36).slice(2),'
    "h=[...document.querySelectorAll(\"[data-pack='%s']\")].find(h=>!h.shadowRoot);"
    "if(h){h.id=n;(%s)(n)}"
)


def view_of(result: Display, image: Picture | None = None, *, run: bool = False) -> View:
    """What a result shows: its pack in the viewer.

    Args:
        result: any result of the package.
        image: the picture that it is about, where it does not hold it.
        run: whether its model may run once.
    """
    return show(pack_of(result, None if image is None else load_image(image), run=run))


def display_of(result: Display) -> View:
    """What stands below a notebook's cell: no model runs for it, and what cannot be drawn any more says why."""
    try:
        return view_of(result)
    except MMLensError as error:  # the cell has worked: it does not end in an error
        return show(Pack(headline_of(result), notes=(f"It cannot be shown: {error}",)))


def looks_view(looks: AttentionLooks, image: Picture | None, heads: Literal["best", "all"]) -> View:
    """What attention looks show, with the maps of all heads, as far as the budget goes, where they are asked for."""
    picture = None if image is None else load_image(image)
    if heads == "best":
        return show(looks_pack(looks, picture))
    most = looks.values.numel()
    while len((view := _shown(looks_pack(looks, picture, most=most))).html) > BUDGET_ALL:
        most = int(0.97 * most * BUDGET_ALL / len(view.html))
    return view


def show(pack: Pack, budget: int = BUDGET) -> View:
    """A pack as a view: the still picture, the data, and the script that puts the viewer in the picture's place.

    Args:
        pack: what is shown; over the budget the largest arrays, then the last items, are left out, and the view says which.
        budget: in bytes.
    """
    arrays = {array.name: encode_array(array) for array in pack.arrays}
    view, left = _shown(pack, arrays), list[str]()
    while len(view.html) > budget and (len(pack.arrays) > 1 or len(pack.sheets) > 1):
        said = f"Left out, to stay under {budget / 1e6:.0f} MB: "
        pack = _lighter(pack, arrays, left, len(view.html) - budget)
        notes = (*(note for note in pack.notes if not note.startswith(said)), f"{said}{', '.join(left)}.")
        pack = replace(pack, notes=notes)
        view = _shown(pack, {} if len(pack.arrays) == 1 else arrays)
    return view


def _lighter(pack: Pack, encoded_arrays: dict[str, dict[str, Any]], left: list[str], excess: int) -> Pack:
    """The pack without the largest other quantity, else without the last run's array, else with fewer items."""
    if len(pack.arrays) == 1:
        items, per_item = len(pack.labels["item"]), len(pack.runs) or 1
        count = max(1, min(items - 1, int(items * (1 - excess / (excess + BUDGET)))))
        left[:] = [*left[: -1 if left and left[-1].endswith("items") else None], "the last items"]
        cut = tuple(replace(array, values=array.values[:count]) for array in pack.arrays)
        labels = {**pack.labels, "item": pack.labels["item"][:count]}
        return replace(pack, arrays=cut, sheets=pack.sheets[: count * per_item], labels=labels)
    weight: dict[str, int] = {}
    for array in pack.arrays:
        size = sum(map(len, encoded_arrays[array.name]["chunks"]))
        weight[array.title] = weight.get(array.title, 0) + size
    title = max(weight, key=lambda title: (title != pack.arrays[0].title, weight[title]))
    gone = {a.name for a in pack.arrays if a.title == title} if len(weight) > 1 else {pack.arrays[-1].name}
    left.append(title if len(weight) > 1 else pack.arrays[-1].run)
    arrays = [replace(a, control="") if a.control in gone else a for a in pack.arrays if a.name not in gone]
    runs = tuple(run for run in pack.runs if any(array.run == run for array in arrays))
    return replace(pack, arrays=tuple(arrays), runs=runs)


def _shown(pack: Pack, arrays: Mapping[str, dict[str, Any]] = MappingProxyType({})) -> View:
    still = still_of(pack)
    data = json.dumps(encode_pack(pack, arrays), separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    number = hashlib.sha256(data.encode()).hexdigest()[:16]
    words = escape(pack.headline, quote=True)
    seen = [("webp", encoded(still, "WEBP"))] if still is not None else []
    if pack.drawing:
        seen.append(("svg+xml", _on_white(pack.drawing).encode()))
    picture = "".join(
        f'<img alt="{words}" src="data:image/{form};base64,{base64.b64encode(content).decode()}">'
        for form, content in seen
    )
    html = (
        f'<div class="mmlens-view" data-pack="{number}"><p data-still>{words}</p>{picture or _still_table(pack)}'
        f'<script type="application/json">{data}</script></div>'
        f"<script>(()=>{{{_START % (number, script())}}})()</script>"
    )
    return View(html, pack.headline, None if still is None else encoded(still, "PNG"))


def _still_table(pack: Pack) -> str:
    """The first rows of the first table, for where no script runs and there is no picture."""
    if not pack.tables:
        return ""
    table = pack.tables[0]
    rows = [
        [f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in row] for row in table.rows[:_STILL_ROWS]
    ]
    head, *body = (
        f"<tr>{''.join(f'<{kind}>{escape(cell)}</{kind}>' for cell in row)}</tr>"
        for kind, row in [("th", table.columns), *(("td", row) for row in rows)]
    )
    return f"<table data-still><thead>{head}</thead><tbody>{''.join(body)}</tbody></table>"


def _on_white(drawing: str) -> str:
    """A drawing that can be read on any page."""
    return drawing.replace(">", '><rect width="100%" height="100%" fill="white"/>', 1)


@cache
def script() -> str:
    """The viewer: a function of the number of the piece that it is put into."""
    style = f"const style={json.dumps(source('viewer.css'))};"  # sanitizers drop other elements than scripts and keep their text
    return (
        "(id=>{" + style + "\n".join(source(f"{part}.js") for part in ("numbers", "stage", "panels", "viewer")) + "\n})"
    )


@cache
def source(name: str) -> str:
    """A file of the viewer, as text."""
    return files("mmlens.viz.page").joinpath(name).read_text(encoding="utf-8").strip()
