"""The five textured grounds and the two moods of light."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageDraw

from mmlens.lab.world import CANVAS, MOODS, PLACES, require

Picture = Float[np.ndarray, "height width rgb"]


def ground(place: str, seed: int, scale: int = 1) -> Picture:
    """Draw a ground.

    Args:
        place: One of `PLACES`.
        seed: Decides the grain.
        scale: Pixels per picture pixel.

    Returns:
        The ground in neutral light, 0 to 255.

    Raises:
        InputError: There is no such place.
    """
    require(place, PLACES, "place")
    rng = np.random.default_rng([seed, PLACES.index(place)])
    return _GROUNDS[place](rng, scale)


def light(mood: str, scale: int = 1) -> Float[np.ndarray, "height width rgb"]:
    """Give the factor by which a mood's light multiplies each pixel: warm and bright, or cold and dim.

    Args:
        mood: One of `MOODS`.
        scale: Pixels per picture pixel.

    Returns:
        The factors; in the sun they fall off from the upper left corner.

    Raises:
        InputError: There is no such mood.
    """
    require(mood, MOODS, "mood")
    side = CANVAS * scale
    if mood == "gloomy":
        return np.broadcast_to(np.array([0.50, 0.56, 0.68], dtype=np.float32), (side, side, 3))
    along = np.linspace(0, 1, side, dtype=np.float32)
    falloff = 1.12 - 0.14 * (along[:, None] + along[None, :])
    return falloff[..., None] * np.array([1.05, 1.0, 0.88], dtype=np.float32)


def _base(color: tuple[int, int, int], scale: int) -> Picture:
    return np.full((CANVAS * scale, CANVAS * scale, 3), color, dtype=np.float32)


def _noise(rng: np.random.Generator, cells: int, scale: int, cells_down: int | None = None) -> Picture:
    """Smooth noise of mean 0 and spread about 1 with the given number of cells across (and down)."""
    rough = rng.standard_normal((cells_down or cells, cells)).astype(np.float32)
    side = CANVAS * scale
    smooth = Image.fromarray(rough).resize((side, side), Image.Resampling.BICUBIC)
    return np.asarray(smooth, dtype=np.float32)[..., None]


def _strokes(picture: Picture, lines: np.ndarray, colors: list[tuple[int, int, int]], width: int) -> Picture:
    """Draw straight strokes, given as rows (x0, y0, x1, y1) in pixels of the picture."""
    image = Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))
    pen = ImageDraw.Draw(image)
    for index, line in enumerate(lines.tolist()):
        pen.line(line, fill=colors[index % len(colors)], width=width)
    return np.asarray(image, dtype=np.float32).copy()


def _grass(rng: np.random.Generator, scale: int) -> Picture:
    picture = _base((104, 158, 66), scale) + 9 * _noise(rng, 8, scale)
    count = 190
    foot = rng.uniform(0, CANVAS + 6, (count, 2))
    tip = foot + np.stack([rng.uniform(-2.2, 2.2, count), rng.uniform(-7, -4, count)], axis=1)
    blades = np.concatenate([foot, tip], axis=1) * scale
    return _strokes(picture, blades, [(78, 132, 48), (128, 180, 84), (92, 148, 56)], scale)


def _sand(rng: np.random.Generator, scale: int) -> Picture:
    ripples = 6 * _noise(rng, 5, scale, cells_down=14)
    return _base((222, 196, 146), scale) + ripples + 9 * _noise(rng, CANVAS, scale)


def _water(rng: np.random.Generator, scale: int) -> Picture:
    side = CANVAS * scale
    down = np.arange(side, dtype=np.float32)[:, None] / scale
    across = np.arange(side, dtype=np.float32)[None, :] / scale
    phase, tilt = rng.uniform(0, 2 * np.pi, 2)
    bend = 2.2 * np.sin(across / 9 + phase) + 1.2 * np.sin(across / 4.3 + tilt)
    crest = np.sin((down + bend) * (2 * np.pi / 11))
    waves = 26 * np.clip(crest - 0.55, 0, 1) / 0.45 - 5 * np.clip(-crest, 0, 1)
    return _base((92, 168, 206), scale) + waves[..., None] + 4 * _noise(rng, 10, scale)


def _brick(rng: np.random.Generator, scale: int) -> Picture:
    image = Image.new("RGB", (CANVAS * scale, CANVAS * scale), (196, 186, 176))
    pen = ImageDraw.Draw(image)
    shift = rng.integers(0, 16)
    for row in range(-1, 13):
        for column in range(-1, 7):
            start = column * 17 + (row % 2) * 8.5 - shift
            top = row * 8.4 + 1
            shade = int(rng.integers(-12, 13))
            color = (172 + shade, 98 + shade, 78 + shade)
            box = [start * scale, top * scale, (start + 15.6) * scale, (top + 7) * scale]
            pen.rectangle(box, fill=color)
    return np.asarray(image, dtype=np.float32) + 4 * _noise(rng, CANVAS, scale)


def _wood(rng: np.random.Generator, scale: int) -> Picture:
    grain = 9 * _noise(rng, 40, scale, cells_down=4) + 5 * _noise(rng, 90, scale, cells_down=8)
    picture = _base((164, 120, 76), scale) + grain
    offset = rng.uniform(0, 24)
    seams = np.array([[x, 0, x, CANVAS] for x in np.arange(offset, CANVAS, 24)]) * scale
    return _strokes(picture, seams, [(104, 72, 42)], scale)


_GROUNDS = {"grass": _grass, "sand": _sand, "water": _water, "brick": _brick, "wood": _wood}
