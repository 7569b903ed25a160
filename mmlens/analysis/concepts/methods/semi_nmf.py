"""Semi-NMF."""

from dataclasses import dataclass, field

from mmlens.analysis.concepts.coders import NonNegative
from mmlens.analysis.concepts.method import CONCEPT_METHODS, ConceptMethod, Decomposition
from mmlens.analysis.concepts.semi_nmf import Values, semi_nmf
from mmlens.core.kinds import NonNegative as NonNegativeNumber
from mmlens.core.kinds import Seed
from mmlens.core.tensor_kinds import Device


@CONCEPT_METHODS.register("semi_nmf")
@dataclass(frozen=True)
class SemiNMF(ConceptMethod):
    """Sums of a few directions with weights that are not negative and few.

        min ||Z - UV||^2 + penalty * ||V||_1 with V >= 0 and ||u_k|| <= 1

    The same formula in batches. How it is solved stands in `mmlens.analysis.concepts.semi_nmf`.

    Attributes:
        penalty: in the unit of the states: what counts as much depends on how long they are.
        seed: of the starting points.
        device: where it is computed; where the states are, by default.

    Source: Parekh et al., "A Concept-Based Explainability Framework for Large Multimodal Models", NeurIPS 2024
    (https://arxiv.org/abs/2406.08074), equation 2.
    *Departs:* the published code hands the problem to scikit-learn, whose alpha of 1 is a penalty of 2.
    """

    penalty: NonNegativeNumber = 1.0
    seed: Seed = 0
    device: Device | None = field(default=None, compare=False)

    def fit(self, values: Values, n_concepts: int, batch_size: int | None) -> Decomposition:
        factors = semi_nmf(
            values, n_concepts, penalty=self.penalty, seed=self.seed, device=self.device, batch_size=batch_size
        )
        return Decomposition(NonNegative(factors.vectors.cpu(), self.penalty), factors.codes.cpu(), factors.objective)
