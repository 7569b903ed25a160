"""Contrast with the prompt alone."""

from dataclasses import dataclass, field

from mmlens.core.kinds import NonNegative
from mmlens.inputs.batch import MultimodalBatch
from mmlens.inputs.text_only import without_pictures
from mmlens.models.contrast.method import CONTRAST_METHODS, ContrastMethod
from mmlens.models.protocol import HookedModel


@CONTRAST_METHODS.register("pai")
@dataclass(frozen=True)
class PAI(ContrastMethod):
    """The same prompt without the picture: what is said blindly is taken away.

        scores = u + gamma (s - u),    gamma = 1 + alpha,    s, u: log softmax with and without the picture

    which is `(1 + alpha) l - alpha l'` up to a number that all tokens share. Image tokens are cut out of the prompt, with the
    marks around them and between their tiles.

    Attributes:
        alpha, beta: see `ContrastMethod`; the paper's gamma of 1.1 is an alpha of 0.1.

    Source: Liu, Zheng and Chen, "Paying More Attention to Image: A Training-Free Method for Alleviating Hallucination in LVLMs",
    ECCV 2024 (https://arxiv.org/abs/2407.21771), section 3.3; github.com/LALBJ/PAI. The attention that the paper amplifies as
    well is `mm.mitigation.BoostAttention`.
    *Departs:* the published code keeps the keys and values of the text between samples, and leaves them in place when beams
    move; here every generation begins anew, and they follow the beams.
    """

    alpha: NonNegative = field(default=0.1, kw_only=True)

    def second(self, model: HookedModel, batch: MultimodalBatch) -> MultimodalBatch:
        """The same prompts, their pictures cut out."""
        template = getattr(model.processor, "chat_template", None) or getattr(batch.tokenizer, "chat_template", None)
        return without_pictures(model.family, model.config, batch, str(template or ""))
