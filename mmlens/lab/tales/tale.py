"""A scene of the narrator's world with everything that can be said about it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool
from PIL import Image

import mmlens.lab.tales.asking as asking
import mmlens.lab.tales.describing as describing
from mmlens.core.contract import checked
from mmlens.core.errors import InputError
from mmlens.lab.scenery import Scene
from mmlens.lab.tales.asking import TaleQuestion
from mmlens.lab.tales.facts import COMPANIONS, TYPICAL_COLORS
from mmlens.lab.world import CANVAS, Placed, SceneObject


@checked
@dataclass(frozen=True)
class Tale:
    """A scene of the narrator's world: the lab's drawing, and what the narrator's language says about it.

    Attributes:
        scene: The drawing; its own `caption` and `questions` are in the first lab model's language.
    """

    scene: Scene

    @property
    def image(self) -> Image.Image:
        """The picture, RGB, 96 x 96 pixels."""
        return self.scene.image

    @property
    def place(self) -> str:
        """The ground, one of `mmlens.lab.PLACES`."""
        return self.scene.place

    @property
    def mood(self) -> str:
        """The light, one of `mmlens.lab.MOODS`."""
        return self.scene.mood

    @cached_property
    def placed(self) -> tuple[Placed, ...]:
        """The things in the order in which captions name them: by the first patch, row by row, that shows them."""
        return tuple(sorted(self.scene.placed, key=first_patch))

    @cached_property
    def objects(self) -> tuple[SceneObject, ...]:
        """The things with their boxes and masks, in the order of `placed`."""
        by_center = {item.center: item for item in self.scene.objects}
        return tuple(by_center[thing.center] for thing in self.placed)

    @property
    def companion(self) -> str:
        """The noun that nine scenes in ten of this place have."""
        return COMPANIONS[self.place]

    @property
    def typical_color(self) -> str:
        """The colour that the companion nearly always has in this place."""
        return TYPICAL_COLORS[self.place]

    @property
    def has_companion(self) -> bool:
        """Whether the place's companion is there, as its prior says."""
        return any(thing.shape == self.companion for thing in self.placed)

    @property
    def has_typical_color(self) -> bool | None:
        """Whether the companion has its typical colour; None where it is not there."""
        colors = [thing.color for thing in self.placed if thing.shape == self.companion]
        return colors[0] == self.typical_color if colors else None

    @property
    def caption(self) -> str:
        """The caption in the first of the phrasings: "A small red star and a white moon on sand."."""
        return describing.tale_caption(self.placed, self.place, self.mood)

    @cached_property
    def questions(self) -> tuple[TaleQuestion, ...]:
        """Every question that the scene answers without doubt, each in its first phrasing (see `asking.ask` for others)."""
        return asking.tale_questions(self.placed, self.place, self.mood)

    def written(self) -> str:
        """The scene in words that stand where the picture would: "a small red star, a white moon, sand, sunny"."""
        return describing.written(self.placed, self.place, self.mood)

    @checked
    def prompt(self, question: str) -> str:
        """The chat around a question about the picture, as plain text with "<image>" in it."""
        return f"USER: <image>\n{question} ASSISTANT:"

    @checked
    def written_prompt(self, question: str) -> str:
        """The chat around a question with the written scene in the place of the picture."""
        return f"USER: {self.written()}\n{question} ASSISTANT:"

    @checked
    def patches(self, index: int, *, share: float = 0.5, side: int = 12) -> Bool[np.ndarray, " patch"]:
        """Say which image tokens show a thing.

        Args:
            index: Which, in the order of `placed`.
            share: The least part of a patch that it covers.
            side: Side of a patch in pixels.

        Returns:
            One truth value a patch, row by row (64 for patches of 12 pixels).

        Raises:
            InputError: There is no such thing, no patches of that side, or no such part.
        """
        if not 0 <= index < len(self.placed):
            raise InputError(
                f"The scene has no thing {index}: it has {len(self.placed)} ({', '.join(t.shape for t in self.placed)}), counted "
                f"from 0. Pass a number from 0 to {len(self.placed) - 1}."
            )
        if side < 1 or CANVAS % side:
            raise InputError(
                f"Patches of {side} pixels do not fill a picture of {CANVAS}. Pass a divisor of it; the model has 12."
            )
        if not 0 < share <= 1:
            raise InputError(
                f"A thing covers a part of a patch, above 0 and at most 1, not {share}. Pass for instance 0.5."
            )
        count = CANVAS // side
        mask = self.objects[index].mask.reshape(count, side, count, side)
        return mask.mean(axis=(1, 3)).ravel() >= share


def first_patch(thing: Placed, side: int = 12) -> tuple[int, int, float]:
    """Say where reading, row by row, first meets a thing: row and column of the patch with its upper edge."""
    x, y = thing.center
    return int((y - 0.7 * thing.radius) // side), int(x // side), x
