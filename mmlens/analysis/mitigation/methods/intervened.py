"""Any interventions, as a method against hallucination."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mmlens.analysis.mitigation.method import MITIGATION_METHODS, Force, MitigationMethod
from mmlens.analysis.samples.sample import Sample
from mmlens.inputs.batch import MultimodalBatch
from mmlens.models.hooked import HookedMultimodal


@MITIGATION_METHODS.register("intervened")
@dataclass(frozen=True)
class Intervened(MitigationMethod):
    """The same interventions for every sample: steering vectors (VTI, L2S), sinks that are redistributed (VAR), ablations.

    Attributes:
        interventions: they: `(mm.Steer(vector), ...)`, `(mm.mitigation.RedistributeSinks(),)`.

    Source: Liu, Ye and Zou, "Reducing Hallucinations in Vision-Language Models via Latent Space Steering", ICLR 2025
    (https://arxiv.org/abs/2410.15778), whose steering vectors are of this kind. *Limits:* an intervention of your own has
    a random control where it moves states (as far, in a random direction), and none where it changes patterns of attention.
    """

    interventions: tuple[Any, ...]

    def force(self, model: HookedMultimodal, samples: Sequence[Sample], batch: MultimodalBatch) -> Force:
        return Force(tuple(self.interventions))
