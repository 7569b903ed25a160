"""The outlines of everything that can stand in a picture, as polygons in a square from -1 to 1."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from math import cos, pi, sin
from typing import Literal

from mmlens.lab.world import HARMLESS_SIGNS, SIGNS

Number = int | float
Points = tuple[tuple[Number, Number], ...]
Role = Literal["main", "ink", "skin", "hair", "hole"]


@dataclass(frozen=True)
class Part:
    """One filled polygon of a glyph.

    Attributes:
        role: What decides its colour; "hole" lets the ground show through the parts before it.
        points: Corners (x, y) from -1 to 1, y downwards.
    """

    role: Role
    points: Points


@cache
def glyph(noun: str) -> tuple[Part, ...]:
    """Give the parts of a noun's glyph, from the back to the front."""
    if noun in SIGNS:
        return _plate(noun) + tuple(Part("ink", points) for points in _SYMBOLS[noun]())
    if noun in _PEOPLE:
        return _PEOPLE[noun]()
    return _SHAPES[noun]()


def _ellipse(x: Number, y: Number, width: Number, height: Number | None = None, steps: int = 40) -> Points:
    height = width if height is None else height
    turns = [2 * pi * step / steps for step in range(steps)]
    return tuple((x + width * cos(t), y + height * sin(t)) for t in turns)


def _box(left: Number, top: Number, right: Number, bottom: Number) -> Points:
    return ((left, top), (right, top), (right, bottom), (left, bottom))


def _main(*points: Points) -> tuple[Part, ...]:
    return tuple(Part("main", polygon) for polygon in points)


def _star() -> tuple[Part, ...]:
    corners = []
    for step in range(10):
        radius = 1.08 if step % 2 == 0 else 0.45
        corners.append((radius * sin(pi * step / 5), 0.06 - radius * cos(pi * step / 5)))
    return _main(tuple(corners))


def _heart() -> tuple[Part, ...]:
    turns = [2 * pi * step / 60 for step in range(60)]
    points = tuple(
        (16 * sin(t) ** 3 / 16.5, -(13 * cos(t) - 5 * cos(2 * t) - 2 * cos(3 * t) - cos(4 * t)) / 16.5) for t in turns
    )
    return _main(points)


def _cross() -> tuple[Part, ...]:
    arm = 0.34
    return _main(_box(-arm, -1, arm, 1), _box(-1, -arm, 1, arm))


def _moon() -> tuple[Part, ...]:
    return (Part("main", _ellipse(-0.05, 0, 1)), Part("hole", _ellipse(0.5, -0.12, 0.82)))


def _house() -> tuple[Part, ...]:
    walls = ((0, -1), (1, -0.1), (0.76, -0.1), (0.76, 0.95), (-0.76, 0.95), (-0.76, -0.1), (-1, -0.1))
    return (Part("main", walls), Part("hole", _box(-0.24, 0.3, 0.24, 1.0)))


def _tree() -> tuple[Part, ...]:
    return _main(
        _box(-0.2, 0.2, 0.2, 1),
        _ellipse(0, -0.55, 0.45),
        _ellipse(-0.46, -0.1, 0.46),
        _ellipse(0.46, -0.1, 0.46),
        _ellipse(0, -0.1, 0.4),
    )


_SHAPES: dict[str, Callable[[], tuple[Part, ...]]] = {
    "circle": lambda: _main(_ellipse(0, 0, 0.97)),
    "square": lambda: _main(_box(-0.86, -0.86, 0.86, 0.86)),
    "triangle": lambda: _main(((0, -0.95), (1.0, 0.82), (-1.0, 0.82))),
    "star": _star,
    "heart": _heart,
    "diamond": lambda: _main(((0, -1.05), (0.78, 0), (0, 1.05), (-0.78, 0))),
    "cross": _cross,
    "ring": lambda: (Part("main", _ellipse(0, 0, 1)), Part("hole", _ellipse(0, 0, 0.52))),
    "moon": _moon,
    "arrow": lambda: _main(
        ((-1, -0.28), (0.05, -0.28), (0.05, -0.85), (1.05, 0), (0.05, 0.85), (0.05, 0.28), (-1, 0.28))
    ),
    "house": _house,
    "tree": _tree,
}


def _man() -> tuple[Part, ...]:
    return (
        Part("hair", _ellipse(0, -0.78, 0.25, 0.24)),
        Part("skin", _ellipse(0, -0.68, 0.22, 0.25)),
        *_main(_box(-0.5, -0.4, 0.5, -0.14), _box(-0.3, -0.4, 0.3, 0.3)),
        *_main(_box(-0.3, 0.2, -0.05, 1.0), _box(0.05, 0.2, 0.3, 1.0)),
        Part("skin", _box(-0.5, -0.14, -0.35, 0.25)),
        Part("skin", _box(0.35, -0.14, 0.5, 0.25)),
    )


def _woman() -> tuple[Part, ...]:
    return (
        Part("hair", ((-0.36, -0.2), (-0.34, -0.8), (0, -1.04), (0.34, -0.8), (0.36, -0.2))),
        Part("skin", _box(-0.24, 0.5, -0.08, 1.0)),
        Part("skin", _box(0.08, 0.5, 0.24, 1.0)),
        Part("skin", ((-0.2, -0.38), (-0.56, 0.16), (-0.44, 0.22), (-0.1, -0.2))),
        Part("skin", ((0.2, -0.38), (0.56, 0.16), (0.44, 0.22), (0.1, -0.2))),
        *_main(((-0.24, -0.4), (0.24, -0.4), (0.2, -0.05), (0.66, 0.66), (-0.66, 0.66), (-0.2, -0.05))),
        Part("skin", _ellipse(0, -0.68, 0.22, 0.26)),
    )


def _person() -> tuple[Part, ...]:
    # A hooded cape down to the ground: neither trousers nor a dress, neither short hair nor long.
    cape = ((-0.16, -0.96), (0.16, -0.96), (0.36, -0.7), (0.36, -0.44), (0.56, -0.26), (0.6, 0.98))
    mirror = tuple((-x, y) for x, y in reversed(cape[1:]))
    return (
        Part("main", cape + mirror),
        Part("skin", _ellipse(0, -0.62, 0.2, 0.24)),
        Part("hair", _box(-0.03, -0.25, 0.03, 0.98)),
    )


_PEOPLE: dict[str, Callable[[], tuple[Part, ...]]] = {"man": _man, "woman": _woman, "person": _person}


def _plate(sign: str) -> tuple[Part, ...]:
    if sign in HARMLESS_SIGNS:
        return _main(_box(-0.95, -0.95, 0.95, 0.95))
    # A diamond leaves more room for the drawing than the usual triangle; at 25 pixels that decides.
    return _main(((0, -1.2), (1.2, 0), (0, 1.2), (-1.2, 0)))


def _tap() -> tuple[Points, ...]:
    return (
        ((-0.7, -0.3), (0.35, -0.3), (0.6, -0.05), (0.6, 0.22), (0.28, 0.22), (0.28, 0.02), (-0.7, 0.02)),
        _box(-0.28, -0.62, -0.06, -0.3),
        _box(-0.52, -0.76, 0.18, -0.58),
        _ellipse(0.44, 0.6, 0.17, 0.24),
    )


def _phone() -> tuple[Points, ...]:
    return (
        ((-0.72, -0.5), (0.72, -0.5), (0.72, -0.12), (0.36, -0.12), (0.36, -0.26), (-0.36, -0.26),
         (-0.36, -0.12), (-0.72, -0.12)),
        ((-0.3, -0.14), (0.3, -0.14), (0.62, 0.66), (-0.62, 0.66)),
    )  # fmt: skip


def _cup() -> tuple[Points, ...]:
    handle = (
        (0.3, -0.3), (0.72, -0.3), (0.72, 0.32), (0.2, 0.32), (0.22, 0.12), (0.52, 0.12), (0.52, -0.1),
        (0.3, -0.1),
    )  # fmt: skip
    return (((-0.68, -0.5), (0.36, -0.5), (0.26, 0.66), (-0.56, 0.66)), handle)


def _door() -> tuple[Points, ...]:
    frame = (
        (-0.42, -0.76), (0.42, -0.76), (0.42, 0.76), (0.24, 0.76), (0.24, -0.58), (-0.24, -0.58),
        (-0.24, 0.76), (-0.42, 0.76),
    )  # fmt: skip
    return (frame, _ellipse(0.08, 0.1, 0.11))


def _poison() -> tuple[Points, ...]:
    # A skull: two crossed bones below a head; the eyes are left out between the strips of the face.
    return (
        ((-0.4, -0.2), (-0.36, -0.52), (-0.14, -0.7), (0.14, -0.7), (0.36, -0.52), (0.4, -0.2)),
        _box(-0.4, -0.22, -0.3, 0.06),
        _box(-0.08, -0.22, 0.08, 0.06),
        _box(0.3, -0.22, 0.4, 0.06),
        _box(-0.34, 0.02, 0.34, 0.14),
        _box(-0.24, 0.12, -0.1, 0.34),
        _box(-0.06, 0.12, 0.06, 0.34),
        _box(0.1, 0.12, 0.24, 0.34),
        _box(-0.42, 0.46, 0.42, 0.58),
    )


def _bolt() -> tuple[Points, ...]:
    return (((0.2, -0.82), (-0.44, 0.1), (-0.04, 0.1), (-0.2, 0.82), (0.46, -0.2), (0.06, -0.2)),)


def _bomb() -> tuple[Points, ...]:
    return (
        _ellipse(-0.06, 0.2, 0.48),
        ((0.12, -0.3), (0.34, -0.16), (0.24, 0.0), (0.0, -0.14)),
        ((0.2, -0.28), (0.34, -0.7), (0.46, -0.66), (0.32, -0.2)),
    )


def _acid() -> tuple[Points, ...]:
    return (
        _box(-0.26, -0.78, 0.26, -0.66),
        _box(-0.14, -0.7, 0.14, -0.2),
        ((-0.14, -0.22), (0.14, -0.22), (0.52, 0.5), (0.44, 0.6), (-0.44, 0.6), (-0.52, 0.5)),
    )


def _flame() -> tuple[Points, ...]:
    outer = (
        (0.04, -0.86), (0.2, -0.5), (0.4, -0.22), (0.5, 0.14), (0.4, 0.46), (0.14, 0.66), (0.2, 0.36),
        (0.02, 0.1), (-0.16, 0.36), (-0.1, 0.66), (-0.38, 0.5), (-0.5, 0.16), (-0.4, -0.2), (-0.24, -0.04),
        (-0.1, -0.4),
    )  # fmt: skip
    return (outer,)


def _knife() -> tuple[Points, ...]:
    return (((-0.78, 0.02), (-0.5, -0.2), (0.2, -0.2), (0.2, 0.08), (-0.6, 0.08)), _box(0.26, -0.16, 0.8, 0.04))


_SYMBOLS: dict[str, Callable[[], tuple[Points, ...]]] = {
    "tap": _tap,
    "phone": _phone,
    "cup": _cup,
    "door": _door,
    "poison": _poison,
    "bolt": _bolt,
    "bomb": _bomb,
    "acid": _acid,
    "flame": _flame,
    "knife": _knife,
}
