"""More attention to the picture, and less trust in what is said without it."""

from collections.abc import Sequence
from dataclasses import dataclass

from mmlens.analysis.mitigation.method import MITIGATION_METHODS, Force, MitigationMethod
from mmlens.analysis.samples.sample import Sample
from mmlens.core.errors import InputError
from mmlens.core.kinds import CountOrZero, NonNegative
from mmlens.inputs.batch import MultimodalBatch
from mmlens.interventions.attention_boost import BoostAttention
from mmlens.models.contrast.methods.pai import PAI
from mmlens.models.hooked import HookedMultimodal


@MITIGATION_METHODS.register("boosted")
@dataclass(frozen=True)
class Boosted(MitigationMethod):
    """Scores of attention to the picture raised, and the answer contrasted with one without the picture (PAI).

    Attributes:
        alpha: how much scores are raised; see `mm.mitigation.BoostAttention`.
        first: the first layer that is boosted.
        contrast: how strongly is contrasted, gamma - 1; 0 for not at all.

    Source: Liu, Zheng and Chen, "Paying More Attention to Image: A Training-Free Method for Alleviating Hallucination in LVLMs",
    ECCV 2024 (https://arxiv.org/abs/2407.21771), sections 3.2 and 3.3.
    *Limits:* a head that looks at the wrong place looks there more.
    """

    alpha: float = 0.2
    first: CountOrZero = 2
    contrast: NonNegative = 0.1

    def force(self, model: HookedMultimodal, samples: Sequence[Sample], batch: MultimodalBatch) -> Force:
        if self.first >= model.cfg.n_layers:
            raise InputError(f"first={self.first} leaves none of the model's {model.cfg.n_layers} layers to boost.")
        boost = BoostAttention(alpha=self.alpha, layers=range(self.first, model.cfg.n_layers))
        return Force((boost,), PAI(alpha=self.contrast) if self.contrast else None)
