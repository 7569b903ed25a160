"""Composes seeded scenes.

The public functions give scenes that no training ever sees: the seed is mixed with the name of the split, so
that no choice of seeds can bring a training scene back.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mmlens.core.contract import checked
from mmlens.core.kinds import Seed, UpToAMillion
from mmlens.lab.scene_changes import fits
from mmlens.lab.scenery import Scene, Split
from mmlens.lab.world import (
    CANVAS,
    COLORS,
    HARMLESS_SIGNS,
    HAZARD_SIGNS,
    MOODS,
    PEOPLE,
    PLACES,
    SHAPES,
    Placed,
    kind_of,
    plate_color,
)

_SPLIT_SALT = {"test": 20231, "train": 30727}
_SEEDS_PER_SET = 1_000_000
_MARGIN = 1.5  # free pixels between an object's square and the edge of the picture


@checked
def scene(seed: Seed = 7, *, split: Split = "test") -> Scene:
    """Draw one scene.

    Args:
        seed: From 0 up; the same seed gives the same scene to the last byte.
        split: "test", or "train" for the scenes that training draws from. The two never meet.

    Returns:
        The scene.

    Example:
        >>> import mmlens
        >>> mmlens.lab.scene(seed=3).caption
        'a small green tree and an orange house on water'

    Raises:
        InputError: The seed is negative, or the split unknown.
    """
    rng = np.random.default_rng([_SPLIT_SALT[split], seed])
    place, mood = str(rng.choice(PLACES)), str(rng.choice(MOODS))
    while True:  # a crowded first draw may leave no room; the generator moves on, so this stays seeded
        objects = _place_all(_nouns(rng), rng)
        if objects is not None:
            return Scene(seed, place, mood, objects, split)


@checked
def scenes(n: UpToAMillion, seed: Seed = 0, *, split: Split = "test") -> list[Scene]:
    """Draw a set of different scenes.

    Args:
        n: How many, at most a million.
        seed: From 0 up; sets with different seeds share no scene.
        split: As in `scene`.

    Returns:
        The scenes; number i is `scene(seed * 1_000_000 + i)`.

    Raises:
        InputError: n is out of range, or see `scene`.
    """
    return [scene(seed * _SEEDS_PER_SET + index, split=split) for index in range(n)]


def _nouns(rng: np.random.Generator) -> list[str]:
    """Choose one to three different nouns, with at most one person and one sign among them."""
    count = int(rng.choice([1, 2, 3], p=[0.25, 0.45, 0.30]))
    nouns = []
    if rng.random() < 0.28:
        nouns.append(str(rng.choice(PEOPLE)))
    if len(nouns) < count and rng.random() < 0.30:
        nouns.append(str(rng.choice(HAZARD_SIGNS if rng.random() < 0.6 else HARMLESS_SIGNS)))
    nouns += rng.permutation(SHAPES)[: count - len(nouns)].tolist()
    return rng.permutation(nouns).tolist()


def _place_all(nouns: list[str], rng: np.random.Generator) -> tuple[Placed, ...] | None:
    objects: list[Placed] = []
    for noun in nouns:
        kind = kind_of(noun)
        color = plate_color(noun) if kind == "sign" else str(rng.choice(list(COLORS)))
        size = "small" if rng.random() < 0.5 else "big"
        turn = 14.0 if kind == "shape" else 4.0
        angle = float(np.round(rng.uniform(-turn, turn), 2))
        red, green, blue = rng.integers(-12, 13, 3).tolist()
        thing = Placed(noun, color, size, (0.0, 0.0), angle, (red, green, blue))
        low, high = thing.radius + _MARGIN, CANVAS - thing.radius - _MARGIN
        for _ in range(60):
            x, y = np.round(rng.uniform(low, high, 2), 2).tolist()
            candidate = replace(thing, center=(x, y))
            # The caption goes from left to right: that order must be plain to see.
            plain = all(abs(x - other.center[0]) >= 7 for other in objects)
            if plain and fits(candidate, tuple(objects)):
                objects.append(candidate)
                break
        else:
            return None
    return tuple(objects)
