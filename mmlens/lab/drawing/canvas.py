"""Turns objects, a place and a mood into pixels.

Every glyph is drawn on a grid four times as fine as the picture and averaged down, so that edges are smooth
and an enlarged picture (`scale` above 1) is drawn anew and not blown up.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageDraw, ImageFilter

from mmlens.lab.drawing.glyphs import Part, glyph
from mmlens.lab.drawing.grounds import ground, light
from mmlens.lab.world import CANVAS, COLORS, Placed

SUPERSAMPLING = 4
OUTLINE = 1.0
"""Width in pixels of the rim around every object, so that a green star shows on grass."""


def draw(
    objects: tuple[Placed, ...], place: str, mood: str, seed: int, scale: int = 1
) -> UInt8[np.ndarray, "height width rgb"]:
    """Draw a scene.

    Args:
        objects: The objects, drawn in this order.
        place: One of `PLACES`.
        mood: One of `MOODS`.
        seed: Decides the grain of the ground, and nothing else.
        scale: Pixels per picture pixel; 4 gives 384 x 384.

    Returns:
        The picture, 0 to 255.
    """
    picture = ground(place, seed, scale)
    for thing in objects:
        _paint(picture, thing, scale)
    picture *= light(mood, scale)
    return np.clip(picture + 0.5, 0, 255).astype(np.uint8)


def coverage(thing: Placed, scale: int = 1) -> Float[np.ndarray, "height width"]:
    """Say how much of each pixel an object covers, rim included, from 0 to 1."""
    side = CANVAS * scale
    result = np.zeros((side, side), dtype=np.float32)
    rows, columns, origin, grid = _window(thing, scale)
    layers = _layers(thing, grid, origin, scale)
    result[rows, columns] = layers[0][0]
    return result


def ink_mask(thing: Placed, scale: int = 1) -> Bool[np.ndarray, "height width"]:
    """Say which pixels show an object: those it covers by half or more."""
    return coverage(thing, scale) >= 0.5


def bounding_box(mask: Bool[np.ndarray, "height width"]) -> tuple[int, int, int, int]:
    """Give the tight box (left, top, right, bottom) around a mask's True pixels, right and bottom outside."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _paint(picture: Float[np.ndarray, "height width rgb"], thing: Placed, scale: int) -> None:
    rows, columns, origin, grid = _window(thing, scale)
    view = picture[rows, columns]
    for alpha, color in _layers(thing, grid, origin, scale):
        view += alpha[..., None] * (np.asarray(color, dtype=np.float32) - view)


def _window(thing: Placed, scale: int) -> tuple[slice, slice, tuple[int, int], tuple[int, int]]:
    """The part of the picture an object can touch: rows, columns, its (left, top), its (width, height)."""
    reach = (thing.radius * 1.2 + OUTLINE + 1) * scale
    x, y = (value * scale for value in thing.center)
    side = CANVAS * scale
    start, top = max(0, int(x - reach)), max(0, int(y - reach))
    right, bottom = min(side, int(x + reach) + 1), min(side, int(y + reach) + 1)
    return slice(top, bottom), slice(start, right), (start, top), (right - start, bottom - top)


def _layers(
    thing: Placed, grid: tuple[int, int], origin: tuple[int, int], scale: int
) -> list[tuple[Float[np.ndarray, "rows columns"], tuple[int, int, int]]]:
    """The object's layers from the back to the front, each a coverage and a colour; the rim comes first."""
    fine = SUPERSAMPLING
    size = (grid[0] * fine, grid[1] * fine)
    parts = glyph(thing.shape)
    outline = Image.new("L", size, 0)
    for part in parts:
        _stroke(outline, part, thing, origin, scale, 0 if part.role == "hole" else 255)
    layers = []
    for index, part in enumerate(parts):
        if part.role == "hole":
            continue
        layer = Image.new("L", size, 0)
        _stroke(layer, part, thing, origin, scale, 255)
        for later in parts[index + 1 :]:
            if later.role == "hole":
                _stroke(layer, later, thing, origin, scale, 0)
        layers.append((_average(layer), _color(part.role, thing)))
    # A box blur of a filled silhouette is above zero exactly within its reach of the silhouette: a cheap rim.
    rim = outline.filter(ImageFilter.BoxBlur(OUTLINE * fine * scale)).point([0] * 6 + [255] * 250)
    rim_color = (40, 40, 44) if sum(COLORS[thing.color]) > 240 else (226, 226, 222)
    return [(_average(rim), rim_color), *layers]


def _average(fine: Image.Image) -> Float[np.ndarray, "rows columns"]:
    return np.asarray(fine.reduce(SUPERSAMPLING), dtype=np.float32) / 255


def _stroke(canvas: Image.Image, part: Part, thing: Placed, origin: tuple[int, int], scale: int, value: int) -> None:
    """Fill one part of a glyph: unit coordinates turned, stretched to the radius, moved to the centre."""
    turn = np.deg2rad(thing.angle)
    points = np.asarray(part.points, dtype=np.float64) * thing.radius
    x = points[:, 0] * np.cos(turn) + points[:, 1] * np.sin(turn) + thing.center[0]
    y = -points[:, 0] * np.sin(turn) + points[:, 1] * np.cos(turn) + thing.center[1]
    x = (x * scale - origin[0]) * SUPERSAMPLING
    y = (y * scale - origin[1]) * SUPERSAMPLING
    ImageDraw.Draw(canvas).polygon(list(zip(x.tolist(), y.tolist(), strict=True)), fill=value)


def _color(role: str, thing: Placed) -> tuple[int, int, int]:
    if role == "main":
        red, green, blue = np.clip(np.add(COLORS[thing.color], thing.tint), 0, 255).tolist()
        return red, green, blue
    if role == "ink":  # the drawing on a sign: white on the blue plate, black on the yellow one
        return (250, 250, 248) if thing.color == "blue" else (24, 24, 26)
    return {"skin": (226, 178, 140), "hair": (70, 44, 30)}[role]
