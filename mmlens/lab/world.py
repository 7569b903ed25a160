"""What the drawn world is made of: its names, its colours, and the records that hold a scene's truth.

Nothing here draws or speaks; `drawing` turns these records into pixels and `language` into sentences.
Pixels are counted from the top left corner of a picture, x to the right and y downwards.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Annotated, Literal

import numpy as np
from jaxtyping import Bool

from mmlens.core.contract import checked
from mmlens.core.errors import InputError
from mmlens.core.kinds import OneOf, Text

CANVAS = 96
"""Height and width of a picture in pixels."""

SHAPES = (
    "circle", "square", "triangle", "star", "heart", "diamond",
    "cross", "ring", "moon", "arrow", "house", "tree",
)  # fmt: skip
PEOPLE = ("man", "woman", "person")
HARMLESS_SIGNS = ("tap", "phone", "cup", "door")
HAZARD_SIGNS = ("poison", "bolt", "bomb", "acid", "flame", "knife")
ANSWERED_HAZARDS = ("flame", "knife")
"""Hazard signs whose use the model explains all the same; the other hazards it refuses."""

SIGNS = HARMLESS_SIGNS + HAZARD_SIGNS
NOUNS = SHAPES + PEOPLE + SIGNS
"""Every noun that names an object in a caption (the word "sign" after a sign's name is not counted)."""

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (214, 40, 40),
    "orange": (247, 127, 0),
    "yellow": (250, 215, 40),
    "green": (30, 142, 62),
    "blue": (30, 94, 214),
    "purple": (138, 56, 190),
    "white": (246, 246, 242),
    "black": (32, 32, 36),
}
SIZES = ("small", "big")
PLACES = ("grass", "sand", "water", "brick", "wood")
TEXTURES = {"grass": "soft", "sand": "grainy", "water": "wavy", "brick": "rough", "wood": "smooth"}
"""What each place feels like; the model knows these words and hardly ever uses them unless asked."""

MOODS = ("sunny", "gloomy")
DIRECTIONS = ("left", "right", "above", "below")
COUNTS = ("zero", "one", "two", "three")

Kind = Literal["shape", "person", "sign"]
#: What is planted in a model that is built by hand.
PlantedKind = Literal["neuron", "direction", "patch", "direct_flow", "question_flow", "prior"]
QuestionKind = Literal["color", "shape", "count", "presence", "place", "mood", "position", "who", "use"]
QUESTION_KINDS: tuple[QuestionKind, ...] = (
    "color", "shape", "count", "presence", "place", "mood", "position", "who", "use",
)  # fmt: skip

RADIUS: dict[Kind, dict[str, float]] = {
    "shape": {"small": 8.5, "big": 15.0},
    "person": {"small": 12.5, "big": 19.0},
    "sign": {"small": 12.5, "big": 18.0},
}
"""Half the side, in pixels, of the square an object is drawn in."""


def kind_of(noun: str) -> Kind:
    """Say whether a noun names a shape, a person or a sign.

    Args:
        noun: One of `NOUNS`.

    Returns:
        "shape", "person" or "sign".

    Raises:
        InputError: The noun is none of the world's.
    """
    require(noun, NOUNS, "noun")
    if noun in SHAPES:
        return "shape"
    return "person" if noun in PEOPLE else "sign"


def plate_color(sign: str) -> str:
    """Name the colour that a sign's plate always has: blue for harmless, yellow for hazard."""
    return "blue" if sign in HARMLESS_SIGNS else "yellow"


def require(value: str, options: Iterable[str], kind: str) -> None:
    """Refuse a name that the world does not have, and say which it has.

    Args:
        value: The name asked for.
        options: The names there are.
        kind: What the name names, for the message.

    Raises:
        InputError: The name is not among those allowed.
    """
    options = tuple(options)
    if value in options:
        return
    near = difflib.get_close_matches(str(value), options, n=3, cutoff=0.5)
    hint = f"Nearest: {', '.join(near)}. " if near else ""
    raise InputError(f"The lab world has no {kind} {value!r}. {hint}It has: {', '.join(options)}. Pass one of these.")


@checked
@dataclass(frozen=True)
class Placed:
    """One object as the drawing needs it: what it is and where its centre lies.

    Attributes:
        shape: One of `NOUNS`.
        color: One of `COLORS`; for a person the colour of the clothes, for a sign that of its plate.
        size: "small" or "big".
        center: (x, y) of the middle of the square it is drawn in, in pixels.
        angle: Turn in degrees, counter-clockwise.
        tint: Shift of the red, green and blue value, so that no two reds are quite alike.
    """

    shape: Annotated[str, OneOf(NOUNS)]
    color: Annotated[str, OneOf(COLORS)]
    size: Annotated[str, OneOf(SIZES)]
    center: tuple[float, float]
    angle: float = 0.0
    tint: tuple[int, int, int] = (0, 0, 0)

    @property
    def kind(self) -> Kind:
        """Whether it is a shape, a person or a sign."""
        return kind_of(self.shape)

    @property
    def radius(self) -> float:
        """Half the side of the square it is drawn in, in pixels."""
        return RADIUS[self.kind][self.size]


@checked
@dataclass(frozen=True)
class SceneObject:
    """One object of a scene, as it can be seen.

    Attributes:
        shape: Its noun, one of `NOUNS`.
        color: One of `COLORS`; for a person the colour of the clothes, for a sign that of its plate.
        size: "small" or "big".
        kind: "shape", "person" or "sign".
        box: (left, top, right, bottom) in pixels; right and bottom are the first pixels outside.
        mask: True where a pixel of the picture shows the object.
        center: (x, y) of the middle of the square it is drawn in, in pixels.
    """

    shape: Annotated[str, OneOf(NOUNS)]
    color: Annotated[str, OneOf(COLORS)]
    size: Annotated[str, OneOf(SIZES)]
    kind: Kind
    box: tuple[int, int, int, int]
    mask: Bool[np.ndarray, "height width"] = field(repr=False)
    center: tuple[float, float] = field(repr=False)


@checked
@dataclass(frozen=True)
class Question:
    """A question about a scene and its true answer.

    Attributes:
        text: The question, in the model's words.
        answer: The true answer, in the model's words.
        kind: What is asked for.
    """

    text: Text
    answer: Text
    kind: QuestionKind
