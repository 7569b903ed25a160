"""Composes the scenes of the narrator's world: the lab's drawings, with priors by place and with rare pairs.

    tale = tales.scene(seed=3)
    tale.image, tale.caption, tale.questions, tale.placed

A place nearly always has its companion (`facts.COMPANIONS`), and the companion nearly always its typical colour there. Where the
picture says otherwise, a model that answers what is usual is wrong, and how often it does is known from the scene alone.
"""

from __future__ import annotations

import random
from typing import Literal

from mmlens.core.contract import checked
from mmlens.core.errors import InputError
from mmlens.core.kinds import Seed, UpToAMillion
from mmlens.lab.scene_changes import fits
from mmlens.lab.scenery import Scene, Split
from mmlens.lab.tales.facts import COMPANIONS, PICTURELESS_PAIRS, PRIOR, RARE, RARE_PAIRS, TYPICAL_COLORS
from mmlens.lab.tales.tale import Tale
from mmlens.lab.world import (
    CANVAS,
    COLORS,
    MOODS,
    PEOPLE,
    PLACES,
    RADIUS,
    SHAPES,
    SIGNS,
    Placed,
    kind_of,
    plate_color,
    require,
)

#: What a scene has against its place's prior: "presence", no companion; "color", the companion in another colour than its typical
#: one; "none", the companion in its typical colour.
Conflict = Literal["presence", "color", "none"]

_SEEDS_PER_SET = 1_000_000
_MARGIN = 1.5  # free pixels between an object's square and the edge of the picture


@checked
def scene(
    seed: Seed = 0, *, split: Split = "test", conflict: Conflict | None = None, pair: tuple[str, str] | None = None
) -> Tale:
    """Compose one scene of the narrator's world.

    Args:
        seed: The same seed gives the same scene.
        split: "test", or "train" for the scenes that training draws from. The two never meet.
        conflict: What the scene has against the prior of its place; None draws it as training does (a tenth of the scenes without
            the companion, a tenth of the others in another colour).
        pair: (Noun, colour) of a shape that the scene has for certain, for instance one of `facts.RARE_PAIRS` or
            `facts.PICTURELESS_PAIRS`; None draws all.

    Returns:
        The scene with its picture and all that can be said about it. No test scene without a `pair` has one of
        `facts.PICTURELESS_PAIRS`.

    Example:
        >>> from mmlens.lab import tales
        >>> tale = tales.scene(seed=3)
        >>> tale.image.size
        (96, 96)

    Raises:
        InputError: The pair is not a shape and a colour, or a conflict is asked for with it.
    """
    if pair is not None:
        if conflict is not None:
            raise InputError(
                f"conflict={conflict!r} and pair={pair!r} can contradict each other: the pair's noun may be the companion. "
                "Pass one of them."
            )
        require(pair[0], SHAPES, "noun of a shape")
        require(pair[1], COLORS, "color")
    rng = random.Random(f"tales {split} {conflict} {pair} {seed}")
    return compose(rng, seed=seed, split=split, conflict=conflict, pair=pair, pictureless=False)


@checked
def scenes(n: UpToAMillion, seed: Seed = 0, *, split: Split = "test", conflict: Conflict | None = None) -> list[Tale]:
    """Compose a set of different scenes; number i is `scene(seed * 1_000_000 + i)`.

    Args:
        n: How many.
        seed: Sets with different seeds share no scene.
        split: See `scene`.
        conflict: See `scene`.

    Returns:
        The scenes.
    """
    return [scene(seed * _SEEDS_PER_SET + index, split=split, conflict=conflict) for index in range(n)]


def compose(
    rng: random.Random,
    *,
    seed: int = 0,
    split: Split = "train",
    conflict: Conflict | None = None,
    pair: tuple[str, str] | None = None,
    pictureless: bool = True,
) -> Tale:
    """Compose a scene from a stream of random numbers, as texts need them by the thousand.

    Args:
        rng: Decides everything but the grain of the ground.
        seed: Decides the grain of the ground.
        split: Noted on the scene.
        conflict: See `scene`.
        pair: See `scene`.
        pictureless: Whether `facts.PICTURELESS_PAIRS` may occur, as they do in text.

    Returns:
        The scene.
    """
    place, mood = rng.choice(PLACES), rng.choice(MOODS)
    while True:  # a crowded draw may leave no room; the generator moves on, so this stays seeded
        names = _nouns(rng, place, conflict, pair)
        objects = _place_all([(name, *_look(rng, name, place, conflict, pair, pictureless)) for name in names], rng)
        if objects is not None:
            return Tale(Scene(seed, place, mood, objects, split))


def _nouns(rng: random.Random, place: str, conflict: Conflict | None, pair: tuple[str, str] | None) -> list[str]:
    """One to three different nouns, the place's companion among them nine times in ten."""
    count = rng.choices((1, 2, 3), (0.2, 0.45, 0.35))[0]
    companion = COMPANIONS[place]
    absent = rng.random() >= PRIOR if conflict is None else conflict == "presence"
    names = [pair[0]] if pair is not None else []
    if not absent and companion not in names:
        names.append(companion)
    kinds = {kind_of(name) for name in names}
    while len(names) < count:
        draw = rng.random()
        options = PEOPLE if draw < 0.12 else SIGNS if draw < 0.27 else SHAPES
        name = rng.choice(options)
        kind = kind_of(name)
        if name == companion or name in names or (kind != "shape" and kind in kinds):
            continue
        names.append(name)
        kinds.add(kind)
    rng.shuffle(names)
    return names


def _look(
    rng: random.Random,
    noun: str,
    place: str,
    conflict: Conflict | None,
    pair: tuple[str, str] | None,
    pictureless: bool,
) -> tuple[str, str]:
    """Colour and size of one thing."""
    size = rng.choice(("small", "big"))
    if pair is not None and noun == pair[0]:
        return pair[1], size
    if noun in SIGNS:
        return plate_color(noun), size
    weights = dict.fromkeys(COLORS, 1.0)
    for name, color in RARE_PAIRS:
        if name == noun:
            weights[color] = RARE * (len(COLORS) - 1)
    if not pictureless:
        for name, color in PICTURELESS_PAIRS:
            if name == noun:
                weights[color] = 0.0
    if noun == COMPANIONS[place]:
        typical = TYPICAL_COLORS[place]
        if conflict == "none" or (conflict != "color" and rng.random() < PRIOR):
            return typical, size
        weights[typical] = 0.0
    return rng.choices(tuple(weights), tuple(weights.values()))[0], size


def _place_all(looks: list[tuple[str, str, str]], rng: random.Random) -> tuple[Placed, ...] | None:
    objects: list[Placed] = []
    for noun, color, size in looks:
        kind = kind_of(noun)
        turn = 14.0 if kind == "shape" else 4.0
        angle = round(rng.uniform(-turn, turn), 2)
        tint = (rng.randint(-12, 12), rng.randint(-12, 12), rng.randint(-12, 12))
        radius = RADIUS[kind][size]
        low, high = radius + _MARGIN, CANVAS - radius - _MARGIN
        for _ in range(40):
            center = (round(rng.uniform(low, high), 2), round(rng.uniform(low, high), 2))
            candidate = Placed(noun, color, size, center, angle, tint)
            if fits(candidate, tuple(objects)):
                objects.append(candidate)
                break
        else:
            return None
    return tuple(objects)
