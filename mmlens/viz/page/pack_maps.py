"""What a heat map shows: its values over the picture."""

import numpy as np
from PIL import Image

from mmlens.analysis.heatmap import HeatMap
from mmlens.viz.page.boxes import boxes_of_map, numbers, require_picture_of
from mmlens.viz.page.pack import Pack, PackArray
from mmlens.viz.page.pack_frames import headline_of


def map_pack(heat: HeatMap, picture: Image.Image | None, run: bool = False) -> Pack:
    """The map over its picture; a grey sheet of the picture's size where that is not known."""
    values = numbers(heat.values).ravel()
    notes: tuple[str, ...] = ()
    if picture is None:
        picture = Image.new("RGB", heat.size[::-1], (128, 128, 128))
        notes = ("The map holds no picture: .view(picture) lays it over one.",)
    require_picture_of(picture, heat.size)
    array = PackArray(
        "map",
        heat.title or "values of patches",
        values,
        ("patch",),
        scale="range" if np.nanmin(values, initial=0) >= 0 else "signed",
    )
    return Pack(headline_of(heat), arrays=(array,), picture=picture, boxes=boxes_of_map(heat), notes=notes)
