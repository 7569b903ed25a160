"""K-means."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from sklearn import cluster

from mmlens.analysis.concepts.coders import Nearest
from mmlens.analysis.concepts.method import CONCEPT_METHODS, ConceptMethod, Decomposition, StateBatches
from mmlens.analysis.concepts.semi_nmf import Values
from mmlens.core.kinds import Seed

#: How often all states are gone through, where they are read in batches.
_ROUNDS = 5
_STARTS = 10


@CONCEPT_METHODS.register("kmeans")
@dataclass(frozen=True)
class KMeans(ConceptMethod):
    """Centres of clusters, the nearest of which stands for a state; the best of ten starts.

    In batches, scikit-learn's incremental version, whose centres move with each batch.

    Attributes:
        seed: of the starts.

    Source: Parekh et al., "A Concept-Based Explainability Framework for Large Multimodal Models", NeurIPS 2024
    (https://arxiv.org/abs/2406.08074), section 3.2; the method of Khayatan et al., ICCV 2025, for shifts.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"batches of at least n_concepts states"})

    seed: Seed = 0

    def fit(self, values: Values, n_concepts: int, batch_size: int | None) -> Decomposition:
        if batch_size is None:
            model = cluster.KMeans(n_concepts, n_init=_STARTS, random_state=self.seed).fit(
                values[:].float().cpu().numpy()
            )
        else:
            model = cluster.MiniBatchKMeans(n_concepts, batch_size=batch_size, n_init=_STARTS, random_state=self.seed)
            for _ in range(_ROUNDS):
                for batch in StateBatches(values, batch_size):
                    model.partial_fit(batch.numpy())
        return Decomposition(Nearest(torch.from_numpy(model.cluster_centers_).float()))
