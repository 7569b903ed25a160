"""Any interventions, as a method against hallucination."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

from mmlens.analysis.mitigation.method import MITIGATION_METHODS, Force, MitigationMethod
from mmlens.analysis.samples.sample import Sample
from mmlens.core.kinds import Must
from mmlens.inputs.batch import MultimodalBatch
from mmlens.interventions.steering_table import SteeringTable
from mmlens.models.hooked import HookedMultimodal
from mmlens.models.runs import Intervention


@MITIGATION_METHODS.register("intervened")
@dataclass(frozen=True)
class Intervened(MitigationMethod):
    """The same interventions for every sample: steering vectors (VTI, L2S), sinks that are redistributed (VAR), ablations.

    Attributes:
        interventions: they: `(mm.Steer(vector), ...)`, `(mm.mitigation.RedistributeSinks(),)`. Of a steering table with keys
            (P2S: `mm.steering.contrastive_vectors`) each batch gets the vectors of its own samples.

    Source: Liu, Ye and Zou, "Reducing Hallucinations in Vision-Language Models via Latent Space Steering", ICLR 2025
    (https://arxiv.org/abs/2410.15778), whose steering vectors are of this kind. *Limits:* an intervention of your own has
    a random control where it moves states (as far, in a random direction), and none where it changes patterns of attention.
    """

    interventions: Annotated[tuple[Intervention, ...], Must("non-empty", bool)]

    def force(self, model: HookedMultimodal, samples: Sequence[Sample], batch: MultimodalBatch) -> Force:
        keys = [sample.key for sample in samples]
        return Force(tuple(_of_samples(act, keys) for act in self.interventions))


def _of_samples(act: Any, keys: Sequence[str]) -> Any:
    """The intervention, with the vectors of some samples where each of its table's has a key."""
    table = getattr(act, "vector", None)
    return replace(act, vector=table.of(keys)) if isinstance(table, SteeringTable) and table.keys else act
