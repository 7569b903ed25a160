"""T5Gemma 2: Gemma 3's tower and pooling, an encoder that reads the prompt both ways, a decoder that looks at both at once.

A decoder block has one attention for what is written and for the prompt: its keys are those of the decoder's rows and,
behind them, those of the encoder's (`decoder+language`). Norms stand around every branch.

Source: Zhang et al., T5Gemma 2: Seeing, Reading, and Understanding Longer, 2025 (https://arxiv.org/abs/2512.14856).
"""

from dataclasses import replace
from typing import Any

import torch

from mmlens.architectures.families.blocks import CLIP_BLOCK, GEMMA_SANDWICH_BLOCK, projected
from mmlens.architectures.families.projectors import projector_at
from mmlens.declarations.family import Encoder, Family, Language, Vision
from mmlens.declarations.registry import register_family
from mmlens.declarations.structure import Config, Norm, Stack
from mmlens.inputs.patch_geometry import Places, Sizes
from mmlens.inputs.patch_geometry.merging import merging_places

_BLOCK = replace(
    GEMMA_SANDWICH_BLOCK,
    attn=projected("o_proj", branch="post_self_attn_layernorm"),
    ln1=Norm("pre_self_attn_layernorm", offset=1.0),
)
_DECODER_BLOCK = replace(_BLOCK, attn=replace(projected("o_proj", branch="post_self_attn_layernorm"), joined=True))
_ENCODER = "model.encoder.text_model"
_DECODER = "model.decoder"


def _pooled(config: Config) -> int:
    """Side of the squares of patches that are averaged."""
    side = config.vision_config.image_size // config.vision_config.patch_size
    return int(side // int(config.mm_tokens_per_image**0.5))


def _places(config: Config, tensors: dict[str, Any], sizes: Sizes, processor: Any | None) -> list[Places]:
    return merging_places(merge=_pooled)(config.encoder, tensors, sizes, processor)


def _started(config: Config, tensors: dict[str, Any]) -> dict[str, Any]:
    """What the decoder has written at first."""
    return {"decoder_input_ids": torch.full((len(tensors["input_ids"]), 1), config.decoder.bos_token_id)}


T5GEMMA2 = register_family(
    Family(
        name="t5gemma2",
        classes=("T5Gemma2ForConditionalGeneration",),
        vision=Vision(
            stack=Stack(
                "model.encoder.vision_tower.encoder.layers", CLIP_BLOCK, config=lambda c: c.encoder.vision_config
            ),
            read=lambda c: [c.encoder.vision_config.num_hidden_layers - 1],
        ),
        projector=projector_at("model.encoder.multi_modal_projector", "vision_outputs", receives_rows="vision"),
        language=Language(
            stack=Stack(f"{_DECODER}.layers", _DECODER_BLOCK, config=lambda c: c.decoder),
            embed=f"{_DECODER}.embed_tokens",
            norm=Norm(f"{_DECODER}.norm", offset=1.0),
            head="lm_head.out_proj",
            encoder=Encoder(
                Stack(f"{_ENCODER}.layers", _BLOCK, config=lambda c: c.encoder.text_config, name="encoder.blocks"),
                norm=Norm(f"{_ENCODER}.norm", offset=1.0),
            ),
        ),
        places=_places,
        placeholder="<start_of_image>",
        nested_pictures=True,
        extra_inputs=_started,
    )
)
