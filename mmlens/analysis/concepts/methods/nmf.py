"""Non-negative matrix factorisation."""

import warnings
from dataclasses import dataclass
from typing import ClassVar

import torch
from sklearn import decomposition
from sklearn.exceptions import ConvergenceWarning

from mmlens.analysis.concepts.coders import NonNegative
from mmlens.analysis.concepts.method import CONCEPT_METHODS, ConceptMethod, Decomposition, StateBatches
from mmlens.analysis.concepts.semi_nmf import Values
from mmlens.core.kinds import Seed

#: How often all states are gone through, where they are read in batches; NMF settles slowly.
_ROUNDS = 30


@CONCEPT_METHODS.register("nmf")
@dataclass(frozen=True)
class NMF(ConceptMethod):
    """Vectors and codes that are both not negative, for states that are never negative.

        min ||Z - UV||^2 with U >= 0 and V >= 0

    In batches, scikit-learn's incremental version.

    Attributes:
        seed: of what is drawn.

    Source: Lee and Seung, "Learning the parts of objects by non-negative matrix factorization", Nature 1999
    (https://doi.org/10.1038/44565).
    """

    needs: ClassVar[frozenset[str]] = frozenset({
        "states that are not negative",
        "batches of at least n_concepts states",
    })  # fmt: skip

    seed: Seed = 0

    def fit(self, values: Values, n_concepts: int, batch_size: int | None) -> Decomposition:
        if batch_size is None:
            model = decomposition.NMF(n_concepts, init="nndsvda", max_iter=1000, random_state=self.seed)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)  # a fit of 1000 rounds is good enough
                model.fit(values[:].float().cpu().numpy())
        else:
            model = decomposition.MiniBatchNMF(
                n_concepts, init="nndsvda", batch_size=batch_size, random_state=self.seed
            )
            for _ in range(_ROUNDS):
                for batch in StateBatches(values, batch_size):
                    model.partial_fit(batch.numpy())
        return Decomposition(NonNegative(torch.from_numpy(model.components_).float(), 0.0))
