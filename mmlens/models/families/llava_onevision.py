"""LLaVA-OneVision, as far as it reads pictures: LLaVA-NeXT with a SigLIP tower and a bound on the tokens of a picture.

The cells of a picture that has more are interpolated to fewer tokens, each of which stands for up to four cells. Several
pictures in one sample are not cut into tiles: each is made a square with bars and seen as a whole.

Source: Li et al., LLaVA-OneVision: Easy Visual Task Transfer, 2024 (https://arxiv.org/abs/2408.03326).
"""

from mmlens.models.families.blocks import class_rows, clip_vision, llama_language, two_layer_projector
from mmlens.models.family import Family
from mmlens.models.places.anyres import anyres_places, anyres_tokens
from mmlens.models.registry import register_family
from mmlens.models.structure import Config


def _most(config: Config) -> int:
    """The number in `anyres_max_9`."""
    return int(config.vision_aspect_ratio.rpartition("_")[2])


LLAVA_ONEVISION = register_family(
    Family(
        name="llava_onevision",
        classes=("LlavaOnevisionForConditionalGeneration",),
        vision=clip_vision(),
        projector=two_layer_projector(),
        language=llama_language("model.language_model", head="lm_head"),
        places=anyres_places(class_rows=class_rows, most=_most),
        expand=anyres_tokens(most=_most),
        nested_pictures=True,
    )
)
