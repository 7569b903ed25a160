"""What attention shows: a token's patches, layer by layer and head by head, and the heads that look at the picture at all."""

import numpy as np
from PIL import Image

from mmlens.analysis.attention.looks import AttentionLooks
from mmlens.viz.page.boxes import numbers, require_picture_of
from mmlens.viz.page.pack import Axis, Pack, PackArray
from mmlens.viz.words import shown

#: So many numbers of single heads are sent; of more, those of the heads that look at the picture most.
_MOST = 800_000
_LETTERS = 16
_CAPTION = (
    "Shares of each token's attention. They say where a head looks, not what of it counts: mm.knock_out cuts it. What is not "
    "in the picture goes to text."
)


def looks_pack(looks: AttentionLooks, picture: Image.Image | None, run: bool = False, most: int = _MOST) -> Pack:
    """Attention over the picture; the shares of heads as a matrix."""
    picture = looks.picture if picture is None else picture
    layer, head, query = looks.most
    share, token = float(looks.shares[layer, head, query]), shown(looks.queries[query], _LETTERS)
    headline = f"{token!r} looks at the picture most, in L{looks.layers[layer]}.h{head}: {share:.0%} of its attention."
    by_token = numbers(looks.shares.transpose(1, 2))
    shares = PackArray("shares", "share of the picture", by_token, ("layer", "token", "head"), limit=1.0)
    start: dict[Axis, int] = {"layer": layer, "head": head, "token": query}
    labels: dict[Axis, list[str]] = {
        "layer": [f"layer {number}" for number in looks.layers],
        "token": [shown(token, _LETTERS) for token in looks.queries],
        "head": [f"head {number}" for number in range(looks.values.shape[1])],
    }
    if picture is None:
        note = "There is no picture at hand: .view(picture)."
        return Pack(headline, _CAPTION, (shares,), labels=labels, start=start, notes=(note,))
    if looks.layout is not None:
        require_picture_of(picture, looks.layout.place(looks.sample, looks.image, looks.frame).size)
    mean = numbers(looks.values.mean(1))
    arrays = [PackArray("mean", "mean of heads", mean, ("layer", "token", "patch"), limit="each")]
    notes = []
    layers, heads, queries, patches = looks.values.shape
    single, count = numbers(looks.values), most // (queries * patches)
    if count < layers * heads:
        best = np.unravel_index(np.argsort(-by_token.mean(1), axis=None)[:count], (layers, heads))
        whole, single = single, np.full_like(single, np.nan)
        single[best] = whole[best]
        notes.append(
            f"Maps of the {count} of {layers * heads:,} heads that look at the picture most; the others were left out: "
            '.view(heads="all") has them.'
        )
    if count:
        arrays.append(PackArray("head", "one head", single, ("layer", "head", "token", "patch"), limit="each"))
    boxes = numbers(looks.boxes)
    return Pack(headline, _CAPTION, (*arrays, shares), picture, boxes, labels, start, notes=tuple(notes))
