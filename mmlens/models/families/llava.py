"""LLaVA: a CLIP or SigLIP tower read at one of its layers, a two-layer projector, a Llama-like language model.

Source: Liu et al., Visual Instruction Tuning, 2023 (https://arxiv.org/abs/2304.08485).
"""

from collections.abc import Sequence

from mmlens.models.families.blocks import CLIP_BLOCK, llama_language
from mmlens.models.family import (
    Config,
    Family,
    Mlp,
    Projector,
    Stack,
    Vision,
    layer_index,
    register_family,
)
from mmlens.models.places import grid_places


def _read(config: Config) -> Sequence[int]:
    chosen = config.vision_feature_layer
    depth = config.vision_config.num_hidden_layers
    return [layer_index(i, depth, "vision_feature_layer") for i in ([chosen] if isinstance(chosen, int) else chosen)]


def _class_rows(config: Config) -> int:
    """CLIP puts a class row before the patches, SigLIP does not."""
    return int(config.vision_config.model_type.startswith("clip"))


LLAVA = register_family(
    Family(
        name="llava",
        classes=("LlavaForConditionalGeneration",),
        vision=Vision(
            stack=Stack("model.vision_tower.encoder.layers", CLIP_BLOCK, config=lambda c: c.vision_config),
            read=_read,
        ),
        projector=Projector(
            receives=("model.multi_modal_projector", "image_features"),
            returns="model.multi_modal_projector",
            mlp=Mlp(
                down="model.multi_modal_projector.linear_2",
                up="model.multi_modal_projector.linear_1",
                act="model.multi_modal_projector.act",
            ),
        ),
        language=llama_language("model.language_model", head="lm_head"),
        places=grid_places(class_rows=_class_rows, drops_class=lambda c: c.vision_feature_select_strategy == "default"),
    )
)
