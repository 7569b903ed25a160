"""Contrastive decoding, as a method against hallucination."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, cast

from mmlens.analysis.mitigation.method import MITIGATION_METHODS, Force, MitigationMethod
from mmlens.analysis.samples.sample import Sample
from mmlens.core.kinds import Accepts
from mmlens.inputs.batch import MultimodalBatch
from mmlens.models.contrast.method import ContrastMethod
from mmlens.models.contrast.methods import CONTRAST_METHODS
from mmlens.models.contrast.methods.vcd import VCD
from mmlens.models.hooked import HookedMultimodal

_VCD = VCD()


@MITIGATION_METHODS.register("contrasted")
@dataclass(frozen=True)
class Contrasted(MitigationMethod):
    """Answers decoded in contrast with a prompt that shows less of the picture (VCD, ICD, PAI's second half).

    Attributes:
        contrast: `"vcd"`, `"icd"`, `"pai"`, or settings of them (`mm.decoding`).

    Source: Leng et al., "Mitigating Object Hallucinations in Large Vision-Language Models through Visual Contrastive
    Decoding", CVPR 2024 (https://arxiv.org/abs/2311.16922). *Limits:* two passes a token; much of the published gain comes
    of the bound on unlikely tokens and of more answers "yes", so compare with `alpha=0` and read the share of yes.
    """

    contrast: Annotated[str | ContrastMethod, Accepts(Any), CONTRAST_METHODS.condition] = _VCD

    def force(self, model: HookedMultimodal, samples: Sequence[Sample], batch: MultimodalBatch) -> Force:
        return Force((), cast(ContrastMethod, CONTRAST_METHODS.get(self.contrast)))
