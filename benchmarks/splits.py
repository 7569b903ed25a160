"""Which scenes a figure is measured on: of a seed that nobody chose, and with no caption that training had.

Methods, layers and strengths are chosen on validation scenes, of the training stream far behind what training drew. What is then
said of them is measured on test scenes, whose seed is the commit's own: whoever regenerates a figure at another commit measures
it on other scenes. About three in ten captions of test scenes occur among those of training, so scenes with these are left out.
"""

import subprocess
from collections.abc import Iterator
from functools import cache
from itertools import count, islice
from pathlib import Path

import mmlens as mm
from mmlens.lab.training.recipe import Recipe

ROOT = Path(__file__).parents[1]


def commit() -> str:
    """The commit of this checkout, 40 hex digits."""
    return subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.strip()


def fresh_seed(of: str | None = None) -> int:
    """The test seed of a commit (this checkout's by default): its first seven hex digits as a number."""
    return int((of or commit())[:7], 16)


@cache
def training_captions(trained: int = Recipe().scenes) -> frozenset[str]:
    """The captions that a lab model was trained on, drawn as `mmlens.lab.training.train` draws its scenes."""
    return frozenset(scene.caption for scene in mm.lab.scenes(trained, split="train"))


def fresh_scenes(n: int, seed: int | None = None, *, trained: int = Recipe().scenes) -> list[mm.lab.Scene]:
    """So many scenes of the test stream; their captions occur in no training scene.

    Args:
        n: how many.
        seed: of the test stream; the commit's by default.
        trained: how many scenes training drew.
    """
    number = fresh_seed() if seed is None else seed
    known = training_captions(trained)
    return list(islice((scene for scene in _stream(number) if scene.caption not in known), n))


def _stream(seed: int) -> Iterator[mm.lab.Scene]:
    """The scenes of `mm.lab.scenes(..., seed=seed)`, one after the other."""
    first = mm.lab.scenes(1, seed=seed)[0].seed
    return (mm.lab.scene(first + index) for index in count())
