"""Descriptions of a scene: names of things, captions, and the two writings that stand where a picture would."""

from __future__ import annotations

import random
from collections.abc import Sequence

from mmlens.lab.tales.facts import PIECES, SYNONYM_SHARE, SYNONYMS
from mmlens.lab.world import CANVAS, Placed, kind_of

CAPTION_REQUESTS = (
    "Describe the picture.",
    "What do you see?",
    "What is shown in this picture?",
    "Tell me what you see in the picture, please.",
    "Describe the picture in detail.",
)
CAPTION_REQUESTS_UNSEEN = ("What is in the picture?", "Please describe what you see.")
"""Requests for a caption that no training text has."""

CAPTIONS = (
    "{things} on {place}.",
    "{things} can be seen on {place}.",
    "On {place} there is {things_low}.",
    "The picture shows {things_low} on {place}. It is {mood}.",
    "{things}. The ground is {place} and it is {mood}.",
)
"""Captions; the form follows from the request, so that what is to be said is known from what was asked for."""

_GRID = 8
_ROWS, _COLUMNS = ("top", "middle", "bottom"), ("left", "center", "right")
REGIONS = tuple(f"at the {row} {column}" for row in _ROWS for column in _COLUMNS)
"""Where a thing can be."""


def name(noun: str, rng: random.Random | None = None) -> str:
    """Name a noun, by its synonym now and then."""
    if rng is not None and noun in SYNONYMS and rng.random() < SYNONYM_SHARE:
        return SYNONYMS[noun]
    return noun


def article_of(word: str) -> str:
    """Give "an" before a vowel and "a" otherwise."""
    return "an" if word[0] in "aeiou" else "a"


def thing_phrase(thing: Placed, rng: random.Random | None = None, *, size: bool = True) -> str:
    """Name a thing with its colour, and with its size where it is small: "a small red star", "a woman in blue"."""
    noun = name(thing.shape, rng)
    words = ["small"] if size and thing.size == "small" else []
    words += [noun, "in", thing.color] if kind_of(thing.shape) == "person" else [thing.color, noun]
    return " ".join([article_of(words[0]), *words])


def as_list(names: Sequence[str]) -> str:
    """Join names: "a, b and c"."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def tale_caption(
    things: Sequence[Placed], place: str, mood: str, rng: random.Random | None = None, *, request: int = 0
) -> str:
    """Describe a scene in a sentence or two.

    Args:
        things: The things in the order in which they are named.
        place: The ground.
        mood: The light.
        rng: Decides the synonyms; None uses none.
        request: Which of `CAPTION_REQUESTS` is answered.

    Returns:
        For instance "A small red star and a white moon on sand."
    """
    text = as_list([thing_phrase(thing, rng) for thing in things])
    return CAPTIONS[request].format(things=text[0].upper() + text[1:], things_low=text, place=place, mood=mood)


def region(thing: Placed) -> str:
    """Say where in the picture a thing is, in thirds: "at the top left"."""
    column, row = (min(2, int(3 * value / CANVAS)) for value in thing.center)
    return f"at the {_ROWS[row]} {_COLUMNS[column]}"


def written(things: Sequence[Placed], place: str, mood: str, rng: random.Random | None = None) -> str:
    """Write a scene as a list, with the regions where an `rng` asks for it."""
    regions = rng is not None and rng.random() < 0.5
    parts = [thing_phrase(thing, rng) + (f" {region(thing)}" if regions else "") for thing in things]
    return f"{', '.join(parts)}, {place}, {mood}"


def has_regions(text: str) -> bool:
    """Say whether a writing tells where things are."""
    return " at the " in text


def mapped(things: Sequence[Placed], place: str, mood: str, rng: random.Random) -> str:
    """Write a scene as a map of 8 x 8 words, row by row, each about what is at that patch of the picture.

    A patch of the ground says the place or, at times, the mood; a patch of a thing says its noun (the first piece of a name in
    pieces), its colour or its size.
    """
    words = [place if rng.random() < 0.8 else mood for _ in range(_GRID * _GRID)]
    patch = CANVAS / _GRID
    for thing in things:
        x, y = thing.center
        reach = 0.8 * thing.radius
        columns = [c for c in range(_GRID) if abs((c + 0.5) * patch - x) <= max(reach, 0.8 * patch)]
        rows = [r for r in range(_GRID) if abs((r + 0.5) * patch - y) <= max(reach, 0.8 * patch)]
        cells = [_GRID * r + c for r in rows for c in columns]
        noun = PIECES.get(thing.shape, thing.shape).split("|")[0]
        for number, cell in enumerate(cells):
            if number == 0:
                words[cell] = noun
            elif number == 1:
                words[cell] = thing.color
            else:
                words[cell] = rng.choices((noun, thing.color, thing.size), (0.6, 0.3, 0.1))[0]
    return " ".join(words)
