"""What decides the narrator's weights: its size and the stages of its training."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import cos, pi

from mmlens.lab.architecture import LAB, Size

NARRATOR = Size(LAB.patch, LAB.d_vision, LAB.vision_layers, LAB.vision_heads, 160, 10, 5, 640)
"""The first lab model's tower, and a language model that is narrower and deeper than its."""


@dataclass(frozen=True)
class TextStage:
    """The language model alone, on the world's texts.

    Attributes:
        steps: How many; may be changed on the way, up to the start of the fall.
        rate: Learning rate between the rise and the fall.
        rise: Steps in which the rate rises to it.
        fall: Steps, the last ones, in which it falls to a fiftieth.
        batch: Rows a step.
        length: Tokens a row.
        decay: Weight decay on matrices.
    """

    steps: int = 4400
    rate: float = 2e-3
    rise: int = 200
    fall: int = 1200
    batch: int = 24
    length: int = 192
    decay: float = 0.1

    def rate_at(self, step: int) -> float:
        """Give the learning rate of a step."""
        rise = min(1.0, (step + 1) / self.rise)
        fall = min(1.0, max(0.02, (self.steps - step) / self.fall))
        return self.rate * rise * fall


@dataclass(frozen=True)
class PictureStage:
    """Training with pictures, the tower as it is.

    Attributes:
        name: Of the stage and its checkpoint.
        steps: How many.
        rate: Peak of the learning rate, which rises in 30 steps and falls along a cosine.
        rank: Of the change of the language model's and the projector's matrices; 0 trains the projector alone, whole.
        scenes: Training scenes.
        batch: Pictures a step, each with its turns in a row of its own.
        turns: Captions and questions a picture.
        length: The most tokens a row.
        turn_weight: What a token of a question counts in the loss.
        cut: Share of the rows in which nothing from the word ASSISTANT on attends to the picture, so that what is asked for
            has to be fetched by the question's tokens; captions are spared.
        errors: Share of the answers that are wrong, as labels of pictures are: a model that is never sure is unsaturated.
        lens: What it counts in the loss that a patch of a thing reads as its noun at the output, and a patch of the ground, a
            third of that, as its place; an answer's token counts 4.
        text_batch: Rows of text beside the pictures.
        text_weight: What their loss counts.
        decay: Weight decay on matrices.
    """

    name: str = "projector"
    steps: int = 400
    rate: float = 3e-3
    rank: int = 0
    scenes: int = 6000
    batch: int = 16
    turns: int = 5
    length: int = 192
    turn_weight: float = 0.05
    cut: float = 0.0
    errors: float = 0.0
    lens: float = 0.0
    text_batch: int = 0
    text_weight: float = 0.3
    decay: float = 0.01

    def rate_at(self, step: int) -> float:
        """Give the learning rate of a step."""
        return self.rate * min(1.0, (step + 1) / 30) * (0.03 + 0.97 * 0.5 * (1 + cos(pi * step / self.steps)))


PROJECTOR_STAGE = PictureStage()
JOINT_STAGE = PictureStage("joint", 450, 1e-3, rank=16, cut=0.4, errors=0.1, text_batch=4)
LENS_STAGE = replace(JOINT_STAGE, name="lens", steps=300, lens=0.4)
"""Another change of the frozen stage, as the joint one, in which image tokens are trained to read as words."""

GATES: dict[str, dict[str, tuple[float, float]]] = {
    "text": {"again": (0.0, 2.0), "answers": (0.0, 0.6)},
    "projector": {"right": (0.7, 1.0)},
    "joint": {"right": (0.75, 1.0)},
    "lens": {"right": (0.75, 1.0)},
}
"""Where the figures at the end of a stage must lie for the next to begin: tokens that come again are foreseen, answers known."""


def closed_gates(stage: str, figures: dict[str, float]) -> list[str]:
    """Say which figures of a finished stage lie outside its gate, and what was asked of them; nothing where all is well."""
    return [
        f"{name} is {figures[name]:.3g} and should lie from {low:g} to {high:g}"
        for name, (low, high) in GATES[stage].items()
        if not low <= figures[name] <= high
    ]
