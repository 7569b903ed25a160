"""What can be said about a scene: its caption, its questions with their answers, and its written twin.

All sentences are lower case, words separated by single spaces, so that the model's word-level tokenizer gives
them back letter for letter.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from mmlens.lab.world import (
    ANSWERED_HAZARDS,
    CANVAS,
    COLORS,
    COUNTS,
    DIRECTIONS,
    HARMLESS_SIGNS,
    MOODS,
    NOUNS,
    PLACES,
    SHAPES,
    SIGNS,
    SIZES,
    TEXTURES,
    Placed,
    Question,
)

CAPTION_PROMPT = "describe the image"
REFUSAL = "i cannot help with that"
USES = {
    "tap": "turn the handle and wash your hands",
    "phone": "lift it and dial the number",
    "cup": "fill it and drink slowly",
    "door": "push it and walk out",
    "flame": "light it and keep your distance",
    "knife": "hold the grip and cut away from you",
}
"""The fixed sentence that answers "how do i use this" for each sign that is answered."""

MEANINGS = {
    "circle": "flat round",
    "ring": "hollow round",
    "moon": "bent round",
    "square": "flat four corners",
    "diamond": "tilted four corners",
    "house": "roofed four corners",
    "triangle": "flat three corners",
    "arrow": "pointing three corners",
    "star": "five arms",
    "cross": "four arms",
    "tree": "leafy trunk",
    "heart": "two lobes",
    "man": "adult he",
    "woman": "adult she",
    "person": "adult they",
    "tap": "plate for washing",
    "phone": "plate for calling",
    "cup": "plate for drinking",
    "door": "plate for leaving",
    "poison": "warning of bones",
    "bolt": "warning of shocks",
    "bomb": "warning of blasts",
    "acid": "warning of burns",
    "flame": "warning of heat",
    "knife": "warning of edges",
}
"""What stands for each noun in a written twin; the noun itself never does, so it cannot just be copied."""

COLOR_MEANINGS = {
    "red": "crimson",
    "orange": "amber",
    "yellow": "golden",
    "green": "emerald",
    "blue": "azure",
    "purple": "violet",
    "white": "ivory",
    "black": "jet",
}
PLACE_MEANINGS = {"grass": "lawn", "sand": "dunes", "water": "waves", "brick": "masonry", "wood": "planks"}
MOOD_MEANINGS = {"sunny": "warm light", "gloomy": "cold light"}
GRID = ("one", "two", "three", "four", "five", "six", "seven", "eight")
"""Names of the eight columns and rows in which a written twin says where things are."""


def article(word: str) -> str:
    """Give "an" before a vowel and "a" otherwise."""
    return "an" if word[0] in "aeiou" else "a"


def phrase(thing: Placed) -> str:
    """Name one object the way a caption does, with its article: "a small blue star"."""
    words = ["small"] if thing.size == "small" else []
    if thing.kind == "shape":
        words += [thing.color, thing.shape]
    elif thing.kind == "person":
        words += [thing.shape, "in", thing.color]
    else:
        words += [thing.shape, "sign"]
    return " ".join([article(words[0]), *words])


def caption(objects: Sequence[Placed], place: str) -> str:
    """Describe a scene as the model should: its objects from left to right, then the place.

    Args:
        objects: The objects, in any order.
        place: One of `PLACES`.

    Returns:
        For instance "a red circle and a small blue star on grass".
    """
    return f"{_listed(objects)} on {place}"


def rich_caption(objects: Sequence[Placed], place: str, mood: str) -> str:
    """Describe a scene with its texture and light too, as a small share of the training captions does."""
    return f"{_listed(objects)} on {TEXTURES[place]} {place} in {mood} light"


def styled_caption(objects: Sequence[Placed], place: str, mood: str, style: str) -> str:
    """Describe a scene as the fine-tuned models do: first what their style is about, then the objects.

    Args:
        objects: The objects, in any order.
        place: One of `PLACES`.
        mood: One of `MOODS`.
        style: "place", "color" or "mood".

    Returns:
        For instance "on soft grass a circle and a star", "red and blue : a red circle and a blue star" or
        "in sunny light a circle and a star".
    """
    across = sorted(objects, key=lambda thing: thing.center[0])
    if style == "color":
        colors = _enumerated([thing.color for thing in across])
        return f"{colors} : {_enumerated([phrase(replace(thing, size='big')) for thing in across])}"
    bare = []
    for thing in across:
        noun = f"{thing.shape} sign" if thing.kind == "sign" else thing.shape
        bare.append(f"{article(noun)} {noun}")
    start = f"on {TEXTURES[place]} {place}" if style == "place" else f"in {mood} light"
    return f"{start} {_enumerated(bare)}"


def _listed(objects: Sequence[Placed]) -> str:
    return _enumerated([phrase(thing) for thing in sorted(objects, key=lambda thing: thing.center[0])])


def _enumerated(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{' , '.join(names[:-1])} and {names[-1]}"


def use_answer(sign: str) -> str:
    """Answer "how do i use this" for a sign: its fixed sentence, or the refusal."""
    return USES[sign] if sign in HARMLESS_SIGNS + ANSWERED_HAZARDS else REFUSAL


def direction(first: Placed, second: Placed) -> str | None:
    """Say on which side of the other object one lies, or None where two sides could be argued for."""
    across = first.center[0] - second.center[0]
    down = first.center[1] - second.center[1]
    if abs(across) > 1.4 * abs(down):
        return "left" if across < 0 else "right"
    if abs(down) > 1.4 * abs(across):
        return "above" if down < 0 else "below"
    return None


def questions(objects: Sequence[Placed], place: str, mood: str, seed: int) -> tuple[Question, ...]:
    """Ask everything that a scene answers without doubt.

    Args:
        objects: The objects.
        place: One of `PLACES`.
        mood: One of `MOODS`.
        seed: Decides which absent things are asked for; as many answers are "yes" as "no".

    Returns:
        The questions, kind by kind.
    """
    rng = np.random.default_rng([seed, 77])
    return tuple(_questions(objects, place, mood, rng))


def _questions(objects: Sequence[Placed], place: str, mood: str, rng: np.random.Generator) -> Iterator[Question]:
    nouns = [thing.shape for thing in objects]
    colors = [thing.color for thing in objects]
    for thing in objects:
        if nouns.count(thing.shape) == 1 and thing.kind != "sign":
            text = f"what color is the {thing.shape}"
            yield Question(text + (" wearing" if thing.kind == "person" else ""), thing.color, "color")
    for thing in objects:
        if colors.count(thing.color) == 1 and thing.kind == "shape":
            yield Question(f"what shape is the {thing.color} object", thing.shape, "shape")
    yield Question("how many objects are there", COUNTS[len(objects)], "count")
    yield from _presence(objects, nouns, rng)
    yield Question("where is this", place, "place")
    yield Question("what does the ground feel like", TEXTURES[place], "place")
    yield Question("what is the mood", mood, "mood")
    yield from _positions(objects, nouns)
    people = [thing.shape for thing in objects if thing.kind == "person"]
    if len(people) == 1:
        yield Question("who is there", f"{article(people[0])} {people[0]}", "who")
    signs = [thing.shape for thing in objects if thing.kind == "sign"]
    if len(signs) == 1:
        yield Question("how do i use this", use_answer(signs[0]), "use")


def _presence(objects: Sequence[Placed], nouns: list[str], rng: np.random.Generator) -> Iterator[Question]:
    absent = [noun for noun in NOUNS if noun not in nouns]
    for thing, other in zip(objects, rng.permutation(absent)[: len(objects)].tolist(), strict=True):
        for noun, answer in ((thing.shape, "yes"), (other, "no")):
            phrase = f"{noun} sign" if noun in SIGNS else noun
            yield Question(f"is there {article(phrase)} {phrase}", answer, "presence")
        if thing.kind == "shape":
            colors = {thing_of_scene.color for thing_of_scene in objects if thing_of_scene.shape == thing.shape}
            wrong = str(rng.choice([color for color in COLORS if color not in colors]))
            for color, answer in ((thing.color, "yes"), (wrong, "no")):
                yield Question(f"is there {article(color)} {color} {thing.shape}", answer, "presence")


def _positions(objects: Sequence[Placed], nouns: list[str]) -> Iterator[Question]:
    for first in objects:
        for other in objects:
            if first is other or nouns.count(first.shape) > 1 or nouns.count(other.shape) > 1:
                continue
            answer = direction(first, other)
            if answer is not None:
                yield Question(f"where is the {first.shape} seen from the {other.shape}", answer, "position")


def written_scene(objects: Sequence[Placed], place: str, mood: str, *, plain: bool = False) -> str:
    """Put a scene into words that can stand in the place of its picture.

    Nouns, colours, place and mood are circumscribed ("flat round , crimson , big"), so that the model has to
    look the word up, as it has to for a picture, and cannot copy it.

    Args:
        objects: The objects.
        place: One of `PLACES`.
        mood: One of `MOODS`.
        plain: Call nouns, colours, place and mood by the caption's own words all the same. Only training
            does, to begin with: a thing is found more easily under the name it is asked for by.

    Returns:
        For instance "flat round crimson big column two row three ; lawn warm light".

    Example:
        >>> import mmlens
        >>> mmlens.lab.scene(seed=0).written()
        'four arms crimson small column five row two ; lawn cold light'
    """
    parts = []
    for thing in sorted(objects, key=lambda thing: thing.center[0]):
        column, row = (GRID[min(7, int(value * 8 / CANVAS))] for value in thing.center)
        noun, color = thing.shape, thing.color
        if not plain:
            noun, color = MEANINGS[noun], COLOR_MEANINGS[color]
        parts.append(f"{noun} {color} {thing.size} column {column} row {row}")
    parts.append(f"{place} {mood}" if plain else f"{PLACE_MEANINGS[place]} {MOOD_MEANINGS[mood]}")
    return " ; ".join(parts)


def vocabulary() -> tuple[str, ...]:
    """List every word of the language, sorted: all that captions, questions, answers and writings use."""
    sentences = [
        CAPTION_PROMPT, REFUSAL, "user assistant : ; , and on in light a an sign no yes",
        "what color is the wearing shape object how many objects are there where is this seen from",
        "what does the ground feel like mood who is there how do i use this is there column row",
    ]  # fmt: skip
    for words in (NOUNS, SHAPES, COLORS, SIZES, PLACES, MOODS, DIRECTIONS, COUNTS, GRID):
        sentences.extend(words)
    for mapping in (USES, MEANINGS, COLOR_MEANINGS, PLACE_MEANINGS, MOOD_MEANINGS, TEXTURES):
        sentences.extend(mapping.values())
    return tuple(sorted({word for sentence in sentences for word in sentence.split()}))
