"""What decides the narrator's weights: its size and the stages of its training."""

from __future__ import annotations

from dataclasses import dataclass

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

    steps: int = 6600
    rate: float = 2e-3
    rise: int = 200
    fall: int = 1400
    batch: int = 24
    length: int = 192
    decay: float = 0.1

    def rate_at(self, step: int) -> float:
        """Give the learning rate of a step."""
        rise = min(1.0, (step + 1) / self.rise)
        fall = min(1.0, max(0.02, (self.steps - step) / self.fall))
        return self.rate * rise * fall
