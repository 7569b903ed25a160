"""What a feature's page shows: its pictures side by side with maps over them, words, contexts, and what it does when clamped."""

from math import ceil

import numpy as np
from PIL import Image

from mmlens.analysis.features.page_result import FeaturePage
from mmlens.viz.page.boxes import boxes_of_map, numbers
from mmlens.viz.page.pack import Pack, PackArray, PackTable
from mmlens.viz.words import shown

#: Pictures in a row, and the side of the square that each is fitted into.
_ACROSS, _SIDE, _GAP = 4, 192, 4


def feature_pack(page: FeaturePage, picture: Image.Image | None, run: bool = False) -> Pack:
    """The top pictures as one, with the feature's codes and those of the random feature; the rest in tables."""
    random = f"{page.control}, a random feature that fires as often"
    rates = [
        (kind, f"{share:.3%}", f"{page.control_density.get(kind, 0.0):.3%}") for kind, share in page.density.items()
    ]
    tables = [PackTable("How often it fires", ("rows of", str(page.feature), str(page.control)), tuple(rates))]
    if page.words:
        words = tuple((rank, word) for rank, word in enumerate(page.words, start=1))
        tables.append(PackTable("What it writes, through the final norm's gain", ("rank", "word"), words))
    if page.contexts:
        said = tuple((c.before, c.token, c.after, f"{c.code:.3g}") for c in page.contexts)
        tables.append(PackTable("Where text has it most", ("before", "token", "after", "code"), said))
    for clamped in page.clamped:
        rows = tuple(zip(page.before, clamped.answers, clamped.control, strict=True))
        new = ", ".join(f"{word} +{count}" for word, count in clamped.words) or "no word more often"
        share, other = clamped.changed, clamped.control_changed
        title = (
            f"Held at {clamped.value:.3g}: {share.mean:.0%} of answers change [{share.low:.0%}, {share.high:.0%}], "
            f"{other.mean:.0%} with the random one; {new}"
        )
        tables.append(PackTable(title, ("without", str(page.feature), str(page.control)), rows))
    notes = () if page.pictures else ("Its rows have no place in a picture, or it fires in none: there is no map.",)
    headline = repr(page).removeprefix("FeaturePage(").removesuffix(")") + "."
    caption = f"Beside it {random}. {page.image_share:.0%} of its codes' sum lies on rows of pictures."
    pack = Pack(headline, caption=caption, tables=tuple(tables), notes=notes)
    return pack if not page.pictures else _with_pictures(page, pack, random)


def _with_pictures(page: FeaturePage, pack: Pack, random: str) -> Pack:
    """The pack with the pictures as tiles of one picture."""
    count = len(page.pictures)
    across = min(_ACROSS, count)
    size = (across * (_SIDE + _GAP) - _GAP, ceil(count / across) * (_SIDE + _GAP) - _GAP)
    mosaic, boxes = Image.new("RGB", size, "white"), []
    values: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for number, top in enumerate(page.pictures):
        left, above = (number % across) * (_SIDE + _GAP), (number // across) * (_SIDE + _GAP)
        scale = _SIDE / max(top.picture.size)
        tile = top.picture.convert("RGB").resize([max(1, round(side * scale)) for side in top.picture.size])
        mosaic.paste(tile, (left, above))
        boxes.append(boxes_of_map(top.map) * scale + np.array([left, above, left, above]))
        for side, heat in zip(values, (top.map, top.control), strict=True):
            side.append(numbers(heat.values).ravel())
    order = ", ".join(f"{shown(top.name, 18)} {top.strongest:.3g}" for top in page.pictures)
    arrays = tuple(
        PackArray(name, title, np.concatenate(side)[None], ("item", "patch"), unit="code", control=control)
        for name, title, side, control in (
            ("feature", f"{page.feature} where the pictures are", values[0], "random"),
            ("random", random, values[1], ""),
        )
    )
    return Pack(
        pack.headline,
        caption=f"{pack.caption} Pictures, best first: {order}.",
        arrays=arrays,
        picture=mosaic,
        boxes=np.concatenate(boxes),
        labels={"item": [str(page.feature)]},
        tables=pack.tables,
        notes=pack.notes,
    )
