"""Principal components."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from sklearn import decomposition

from mmlens.analysis.concepts.coders import Centred
from mmlens.analysis.concepts.method import CONCEPT_METHODS, ConceptMethod, Decomposition, StateBatches
from mmlens.analysis.concepts.semi_nmf import Values
from mmlens.core.kinds import Seed


@CONCEPT_METHODS.register("pca")
@dataclass(frozen=True)
class PCA(ConceptMethod):
    """Principal components around the mean, with codes of either sign.

    In batches, scikit-learn's incremental version.

    Attributes:
        seed: of the randomised solver that scikit-learn takes for many states.

    Source: Parekh et al., "A Concept-Based Explainability Framework for Large Multimodal Models", NeurIPS 2024
    (https://arxiv.org/abs/2406.08074), section 3.2.
    *Departs:* centred, as scikit-learn's is.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"batches of at least n_concepts states"})

    seed: Seed = 0

    def fit(self, values: Values, n_concepts: int, batch_size: int | None) -> Decomposition:
        if batch_size is None:
            model = decomposition.PCA(n_concepts, random_state=self.seed).fit(values[:].float().cpu().numpy())
        else:
            model = decomposition.IncrementalPCA(n_concepts)
            for batch in StateBatches(values, batch_size):
                model.partial_fit(batch.numpy())
        vectors, mean = (torch.from_numpy(array).float() for array in (model.components_, model.mean_))
        return Decomposition(Centred(vectors, mean))
