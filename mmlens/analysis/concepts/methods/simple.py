"""The longest states."""

from dataclasses import dataclass

import torch

from mmlens.analysis.concepts.coders import Nearest
from mmlens.analysis.concepts.method import CONCEPT_METHODS, ConceptMethod, Decomposition, StateBatches
from mmlens.analysis.concepts.semi_nmf import Values


@CONCEPT_METHODS.register("simple")
@dataclass(frozen=True)
class Simple(ConceptMethod):
    """The longest states themselves, the nearest of which stands for a state: the baseline.

    Source: Parekh et al., "A Concept-Based Explainability Framework for Large Multimodal Models", NeurIPS 2024
    (https://arxiv.org/abs/2406.08074), section 4.
    """

    def fit(self, values: Values, n_concepts: int, batch_size: int | None) -> Decomposition:
        longest = torch.zeros(0, values.shape[1])
        for batch in StateBatches(values, batch_size or len(values)):
            candidates = torch.cat([longest, batch])
            longest = candidates[candidates.norm(dim=1).topk(min(n_concepts, len(candidates))).indices]
        return Decomposition(Nearest(longest))
