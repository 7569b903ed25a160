"""Views of results: the pack of each kind of result, put into the viewer's HTML."""

import base64
import hashlib
import json
from functools import cache
from html import escape
from importlib.resources import files

from mmlens.core.view import View, Viewable
from mmlens.inputs.images import Picture, load_image
from mmlens.viz.page.encode import encode_pack
from mmlens.viz.page.pack import Pack
from mmlens.viz.page.packs import pack_of
from mmlens.viz.page.still import encoded, still_of

#: What a view may weigh by default, in bytes: a notebook with ten of them is still opened at once.
BUDGET = 2_000_000
#: Finds the piece that has no viewer yet (a result that is shown twice has its number twice), and starts it.
_START = (
    'const n="mmlens-"+Math.random().toString(36).slice(2),'
    "h=[...document.querySelectorAll(\"[data-pack='%s']\")].find(h=>!h.shadowRoot);"
    "if(h){h.id=n;(%s)(n)}"
)


def view_of(result: Viewable, image: Picture | None = None, *, run: bool = False) -> View:
    """What a result shows: its pack in the viewer.

    Args:
        result: any result of the package.
        image: the picture that it is about, where it does not hold it.
        run: whether its model may run once.
    """
    return show(pack_of(result, None if image is None else load_image(image), run=run))


def show(pack: Pack) -> View:
    """A pack as a view: the still picture, the data, and the script that puts the viewer in the picture's place."""
    still = still_of(pack)
    data = json.dumps(encode_pack(pack), separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    number = hashlib.sha256(data.encode()).hexdigest()[:16]
    words = escape(pack.headline, quote=True)
    picture = ""
    if still is not None:
        data_uri = base64.b64encode(encoded(still, "WEBP")).decode()
        picture = f'<img alt="{words}" src="data:image/webp;base64,{data_uri}">'
    html = (
        f'<div class="mmlens-view" data-pack="{number}"><p data-still>{words}</p>{picture}'
        f'<template>{source("viewer.css")}</template><script type="application/json">{data}</script></div>'
        f"<script>(()=>{{{_START % (number, source('viewer.js'))}}})()</script>"
    )
    return View(html, pack.headline, None if still is None else encoded(still, "PNG"))


@cache
def source(name: str) -> str:
    """A file of the viewer, as text."""
    return files("mmlens.viz.page").joinpath(name).read_text(encoding="utf-8").strip()
