"""Changes of one thing of a scene, and whether it still fits."""

from __future__ import annotations

from dataclasses import replace

import mmlens.lab.language as language
from mmlens.core.errors import InputError
from mmlens.lab.drawing.canvas import OUTLINE
from mmlens.lab.world import (
    CANVAS,
    COLORS,
    DIRECTIONS,
    NOUNS,
    Placed,
    kind_of,
    plate_color,
    require,
)

_GAP = 2.0  # free pixels between the squares of two objects


def at_position(thing: Placed, others: tuple[Placed, ...], position: str | tuple[float, float]) -> Placed:
    """The object at another centre, or at the nearest free one on a side of the first other object."""
    if not isinstance(position, str):
        x, y = (float(value) for value in position)
        if not fits(replace(thing, center=(x, y)), others):
            raise InputError(
                f"The {thing.shape} does not fit at ({x:g}, {y:g}): it would leave the picture of "
                f"{CANVAS} x {CANVAS} pixels or touch another object. Pass a free centre, or a side."
            )
        return replace(thing, center=(x, y))
    require(position, DIRECTIONS, "side")
    side = f"{position} of" if position in ("left", "right") else position
    if not others:
        raise InputError(
            f"The {thing.shape} is alone, so nothing lies {side} anything. "
            "Pass a centre (x, y) in pixels, or take a scene with two objects."
        )
    # The nearest free spot on the asked side: the change of the picture stays as small as it can be.
    spots = [(float(x), float(y)) for x in range(4, CANVAS, 4) for y in range(4, CANVAS, 4)]
    spots.sort(key=lambda spot: (spot[0] - thing.center[0]) ** 2 + (spot[1] - thing.center[1]) ** 2)
    for spot in spots:
        thing_there = replace(thing, center=spot)
        if language.direction(thing_there, others[0]) == position and fits(thing_there, others):
            return thing_there
    raise InputError(
        f"There is no free spot {side} the {others[0].shape} for the {thing.shape}. "
        f"Pass another side ({', '.join(DIRECTIONS)}) or a centre (x, y) in pixels."
    )


def fits(thing: Placed, others: tuple[Placed, ...]) -> bool:
    """Say whether an object lies inside the picture and clear of all others."""
    reach = thing.radius + OUTLINE
    if not all(reach <= value <= CANVAS - reach for value in thing.center):
        return False
    for other in others:
        apart = max(abs(a - b) for a, b in zip(thing.center, other.center, strict=True))
        if apart < thing.radius + other.radius + _GAP + 2 * OUTLINE:
            return False
    return True


def in_color(thing: Placed, color: str) -> Placed:
    """The object in another colour; signs keep theirs."""
    require(color, COLORS, "color")
    if thing.kind == "sign":
        raise InputError(
            f"The {thing.shape} sign keeps its colour, {thing.color}: it says what sort of sign it is. "
            "Recolour a shape or a person's clothes (object=...)."
        )
    return replace(thing, color=color)


def of_shape(thing: Placed, shape: str) -> Placed:
    """The object with another noun of its kind."""
    require(shape, NOUNS, "noun")
    if kind_of(shape) != thing.kind:
        raise InputError(
            f"A {thing.shape} is a {thing.kind} and cannot become a {kind_of(shape)} ({shape}): sizes and "
            f"sentences would change too. Pass another {thing.kind}, or another object."
        )
    color = plate_color(shape) if thing.kind == "sign" else thing.color
    return replace(thing, shape=shape, color=color)
