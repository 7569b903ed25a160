"""What decides the trained weights: the model's size, the scenes, and the stages of training.

The tower learns to see first and is then held, as in LLaVA, while the projector and the language model learn from
pictures and from written scenes together; at the end all of it learns.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import cos, pi
from typing import Literal

from mmlens.lab.architecture import LAB, Size

Part = Literal["vision_tower", "multi_modal_projector", "language_model"]
TOWER: Part = "vision_tower"
PROJECTOR: Part = "multi_modal_projector"
LANGUAGE: Part = "language_model"


@dataclass(frozen=True)
class Stage:
    """One stretch of training with its own optimizer and learning rate.

    Attributes:
        name: For the progress bar and the model card.
        learns: Parts of the model that learn; the others are held.
        steps: Number of steps.
        rate: Peak learning rate.
        batch: Rows per step.
        last: Share of the peak rate that a cosine goes down to.
        objective: "patches" tells what is seen at every patch and where; "words" predicts captions and answers.
        written_every: Every how many batches one shows written scenes in the place of pictures; 1 is always,
            0 never.
        questions: Questions packed behind each picture, besides the caption.
        answer_weight: How many caption words an answer counts as in the loss; None counts tokens alike.
        plain: Share of the written rows that use the caption's own words; see `language.written`.
        lookups: Factor on the chance of questions that need one object looked up among several.
    """

    name: str
    learns: tuple[Part, ...]
    steps: int
    rate: float
    batch: int = 48
    last: float = 0.05
    objective: Literal["patches", "words"] = "words"
    written_every: int = 0
    questions: int = 4
    answer_weight: float | None = None
    plain: float = 0.0
    lookups: float = 1.0

    def rate_at(self, step: int) -> float:
        """Give the learning rate of a step: a short rise, then a cosine."""
        rise = min(1.0, (step + 1) / min(50, self.steps))
        return self.rate * rise * (self.last + (1 - self.last) * 0.5 * (1 + cos(pi * step / self.steps)))

    def is_written(self, step: int) -> bool:
        """Say whether the batch of a step shows written scenes."""
        return self.written_every > 0 and step % self.written_every == self.written_every - 1


_WORDS = Stage(
    "words, tower held", (PROJECTOR, LANGUAGE), 2500, 1e-3, batch=24, last=0.7, written_every=4, questions=6,
    answer_weight=5.0, plain=0.5, lookups=2.5,
)  # fmt: skip
STAGES = (
    Stage("tower", (TOWER,), 4000, 2e-3, batch=64, objective="patches"),
    _WORDS,
    replace(_WORDS, name="words, all learning", learns=(TOWER, PROJECTOR, LANGUAGE), steps=4000, last=0.02, plain=0.25),
)
"""The default training. How the weights in the package were made, their model card says."""


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the trained weights.

    Attributes:
        size: The model's size.
        stages: What is done, in order.
        scenes: Number of training scenes drawn.
        decay: Weight decay on matrices.
        sparsity: See `objectives.language_loss`.
        seed: Decides first weights and batches.
    """

    size: Size = LAB
    stages: tuple[Stage, ...] = STAGES
    scenes: int = 40_000
    decay: float = 0.1
    sparsity: float = 0.0
    seed: int = 0
