"""A lab model together with its world."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float

from mmlens.analysis.metrics import log_probability, measure
from mmlens.analysis.samples.sample import Sample, batches
from mmlens.core.answer_text import is_answer
from mmlens.core.errors import InputError
from mmlens.core.names import nearest_hint
from mmlens.inputs.batch import MultimodalBatch
from mmlens.lab import load
from mmlens.lab.phenomena.scene_world import SceneWorld
from mmlens.lab.phenomena.tale_world import TaleWorld
from mmlens.lab.phenomena.world import LabQuestion, LabScene, LabWorld, sample_of
from mmlens.models.hooked import HookedMultimodal

#: The worlds of the lab's models: by the names of `mmlens.lab.load`, and its stage.
WORLDS: dict[str, LabWorld] = {
    "captioner": SceneWorld(),
    "narrator": TaleWorld(),
    "narrator-tuned": TaleWorld(tuned=True),
}
_BATCH = 32


@dataclass(frozen=True)
class Subject:
    """A lab model together with its world.

    Attributes:
        name: Of the model.
        world: What it was trained on.
        model: The model.
    """

    name: str
    world: LabWorld
    model: HookedMultimodal = field(repr=False)

    def sample(self, scene: LabScene, question: LabQuestion | None, *, name: str = "") -> Sample:
        """A question about a scene, or its caption."""
        return sample_of(self.world, scene, question, name=name)

    def batches(self, samples: Sequence[Sample], size: int = _BATCH) -> Iterator[tuple[list[Sample], MultimodalBatch]]:
        """Samples in prepared batches."""
        return batches(self.model, samples, batch_size=size, progress=False)

    @torch.no_grad()
    def replies(self, samples: Sequence[Sample], *, tokens: int = 12) -> list[str]:
        """What the model says, greedily."""
        return [
            text
            for _, batch in self.batches(samples)
            for text in self.model.trace_generation(batch, names="hook_logits", max_new_tokens=tokens).text
        ]

    def is_right(self, samples: Sequence[Sample], *, tokens: int = 12) -> Bool[np.ndarray, " sample"]:
        """Whether the model answers with the true answer, to the last word."""
        replies = self.replies(samples, tokens=tokens)
        return np.array([is_answer(t, str(s.answer)) for t, s in zip(replies, samples, strict=True)], dtype=bool)

    def captions(self, scenes: Sequence[LabScene]) -> list[str]:
        """The model's captions."""
        return self.replies([self.sample(scene, None) for scene in scenes], tokens=40)

    def log_p(self, samples: Sequence[Sample]) -> Float[torch.Tensor, " sample"]:
        """Log-probability of the true answers, all of their tokens, in nats."""
        parts = [
            measure(self.model, batch, metric=log_probability([str(sample.answer) for sample in part]))
            for part, batch in self.batches(samples)
        ]
        return torch.cat(parts)

    def first_tokens(self, noun: str) -> set[int]:
        """The tokens with which the model begins a word inside a sentence, of every spelling."""
        return {int(self.model.to_word_tokens(word)[0]) for word in self.world.spellings(noun)}


def subject(name: str, *, path: str | Path | None = None) -> Subject:
    """Load a lab model with its world.

    Args:
        name: One of `WORLDS`.
        path: A folder with other weights for that world, such as a checkpoint.

    Raises:
        InputError: The lab has no such model.
    """
    if name not in WORLDS:
        raise InputError(f"The lab has no model {name!r}.{nearest_hint(name, WORLDS)} It has: {', '.join(WORLDS)}.")
    if path is not None:
        model = HookedMultimodal.from_pretrained(path, dtype="float32")
    elif name == "captioner":
        model = load()
    else:
        model = load("narrator", stage="tuned" if name == "narrator-tuned" else "frozen")
    return Subject(name, WORLDS[name], model)
