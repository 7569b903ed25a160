"""States with a known shift: clusters of a base model, each moved by a vector of its own in the tuned one."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int

from mmlens.analysis.concepts.extract import extract_concepts
from mmlens.analysis.shift.result import ConceptShift
from mmlens.analysis.shift.shift import concept_shift
from mmlens.analysis.store.states import States

AT, WIDTH, CONCEPTS, EACH = "blocks.1.hook_resid_post", 32, 4, 40


@dataclass(frozen=True)
class PlantedShift:
    """Base and tuned states, and what was planted: the cluster of each sample and the shift of each cluster."""

    base: States
    tuned: States
    cluster: Int[torch.Tensor, "sample"]
    vectors: Float[torch.Tensor, "concept d_model"]

    def measured(self, **options) -> ConceptShift:  # type: ignore[no-untyped-def]
        """The shift, of concepts by k-means."""
        bank = extract_concepts(self.base, CONCEPTS, method="kmeans")
        return concept_shift(self.base, self.tuned, bank, **options)

    def number(self, shift: ConceptShift) -> list[int]:
        """The planted cluster of each concept that was found: that of its first sample."""
        return [int(self.cluster[(shift.owner == k).nonzero()[0, 0]]) for k in range(CONCEPTS)]


def planted_shift(*, seed: int = 0, noise: float = 0.05, planted: bool = True) -> PlantedShift:
    """Four clusters of forty samples; without `planted`, every sample moves as far, but in a random direction."""
    generator = torch.Generator().manual_seed(seed)
    cluster = torch.arange(CONCEPTS).repeat(EACH)
    centres = 8 * torch.randn(CONCEPTS, WIDTH, generator=generator)
    vectors = 2 * torch.randn(CONCEPTS, WIDTH, generator=generator)
    values = centres[cluster] + 0.5 * torch.randn(len(cluster), WIDTH, generator=generator)
    moved = vectors[cluster] + noise * torch.randn(values.shape, generator=generator)
    if not planted:
        random = torch.randn(values.shape, generator=generator)
        moved = random / random.norm(dim=1, keepdim=True) * vectors[cluster].norm(dim=1, keepdim=True)
    keys = tuple(f"sample{row}" for row in range(len(cluster)))
    base = States(values, AT, keys=keys, tokens=("dog",) * len(cluster), source="base")
    return PlantedShift(base, replace(base, values=values + moved, source="tuned"), cluster, vectors)
