"""Qwen2-VL: a packed vision tower with 2x2 patch merging and multimodal rotary positions.

The rows of all pictures lie in one sequence without a batch axis, grouped by merge block: row i is not raster patch i.

Source: Wang et al., Qwen2-VL, 2024 (https://arxiv.org/abs/2409.12191).
"""

from typing import Any

from mmlens.models.families.blocks import llama_language
from mmlens.models.family import (
    Attention,
    Block,
    Config,
    Family,
    Mlp,
    Norm,
    Projector,
    Stack,
    Vision,
    register_family,
)
from mmlens.models.places import merged_places

_BLOCK = Block(
    attn=Attention(kernel="attn", branch="attn", qkv="attn.qkv", o="attn.proj"),
    mlp=Mlp(down="mlp.fc2", up="mlp.fc1", act="mlp.act", branch="mlp"),
    ln1=Norm("norm1", centred=True),
    ln2=Norm("norm2", centred=True),
)


def _expand(config: Config, tensors: dict[str, Any]) -> list[int]:
    merge = config.vision_config.spatial_merge_size**2
    return (tensors["image_grid_thw"].prod(-1) // merge).tolist()


def _extra_inputs(config: Config, tensors: dict[str, Any]) -> dict[str, Any]:
    """The multimodal rotary positions need to know which tokens are image tokens."""
    if "pixel_values" not in tensors:
        return {}
    return {"mm_token_type_ids": (tensors["input_ids"] == config.image_token_id).int()}


QWEN2_VL = register_family(
    Family(
        name="qwen2_vl",
        classes=("Qwen2VLForConditionalGeneration",),
        vision=Vision(
            stack=Stack(
                "model.visual.blocks",
                _BLOCK,
                config=lambda c: c.vision_config,
                heads=lambda v: v.num_heads,
                packed=True,
            ),
            read=lambda c: [c.vision_config.depth - 1],
        ),
        projector=Projector(
            receives=("model.visual.merger", "x"),
            returns="model.visual.merger",
            mlp=Mlp(down="model.visual.merger.mlp.2", up="model.visual.merger.mlp.0", act="model.visual.merger.mlp.1"),
            receives_rows="vision",
        ),
        language=llama_language("model.language_model", head="lm_head"),
        places=merged_places,
        placeholder="<|vision_start|><|image_pad|><|vision_end|>",
        expand=_expand,
        extra_inputs=_extra_inputs,
    )
)
