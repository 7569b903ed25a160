"""The still picture of a view: what is seen where no script runs, as in an untrusted notebook."""

import io

import numpy as np
from matplotlib import colormaps
from PIL import Image

from mmlens.core.palette import DIVERGING, OVER_PICTURE
from mmlens.viz.page.pack import Pack, largest_of

#: The longer side, in pixels.
SIDE = 320
#: The weight of colours over the picture: of all where there are two signs, and of the strongest besides; as in the viewer.
_WEIGHT, _STRONGEST = 0.08, 0.6


def still_of(pack: Pack) -> Image.Image | None:
    """The picture under the map that the view opens with; None where there is no picture."""
    own = pack.sheets[0] if pack.sheets else None
    picture, boxes = (pack.picture, pack.boxes) if own is None else (own.picture, own.boxes)
    if picture is None:
        return None
    picture = picture.convert("RGB")
    factor = SIDE / max(picture.size)
    picture = picture.resize([max(1, round(side * factor)) for side in picture.size], Image.Resampling.BICUBIC)
    array = next((array for array in pack.arrays if array.axes[-1] == "patch"), None)
    if array is None or boxes is None:
        return picture
    values = array.values[tuple(pack.start.get(axis, 0) for axis in array.axes[:-1])][: len(boxes)]
    largest = largest_of(values)
    limit = (array.limit if isinstance(array.limit, float) else largest) or 1.0
    signed = array.scale == "signed"
    share = values / (2 * limit) + 0.5 if signed else values / limit
    colors = colormaps[DIVERGING if signed else OVER_PICTURE](np.nan_to_num(share, posinf=1.0, neginf=0.0))[:, :3] * 255
    pixels = np.array(picture, dtype=np.float32)
    reach = 1.0 if array.scale == "range" else np.minimum(1, np.abs(np.nan_to_num(values)) / limit)
    weights = np.broadcast_to(_WEIGHT * signed + _STRONGEST * reach, values.shape)
    for box, color, number, weight in zip(np.round(boxes * factor).astype(int), colors, values, weights, strict=True):
        if not np.isnan(number):
            left, top, right, bottom = box
            part = np.s_[top : max(bottom, top + 1), left : max(right, left + 1)]
            pixels[part] = pixels[part] * (1 - weight) + color * weight
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def encoded(picture: Image.Image, form: str) -> bytes:
    """A picture as a file of a form, `"PNG"` or `"WEBP"`."""
    buffer = io.BytesIO()
    picture.save(buffer, form, **({"quality": 85, "method": 2} if form == "WEBP" else {}))
    return buffer.getvalue()
