"""Kimi K2.5: a packed tower in raster order, squares of patches merged by an MLP, latent attention over a mixture.

Keys and values of a language block are made of one narrow latent row per token (`kv_b_proj`), and so are queries; what the
heads compare has another width than what they read, so `hook_q` and `hook_k` are wider than `hook_z`. Pictures are not
resized to whole squares but padded at the right and at the bottom.

Source: Kimi Team, Kimi K2.5, 2026 (https://arxiv.org/abs/2602.02276).
"""

import math
from dataclasses import replace
from typing import Any

from mmlens.architectures.families.blocks import (
    LATENT_ATTENTION,
    LLAMA_BLOCK,
    SHARED_MIXTURE,
    llama_language,
    vision_tower,
)
from mmlens.architectures.families.packed import PROJECTED_PACKED_BLOCK
from mmlens.declarations.family import Family
from mmlens.declarations.projector import FeatureMethod, Projector
from mmlens.declarations.registry import register_family
from mmlens.declarations.structure import Config, Mlp
from mmlens.inputs.patch_geometry.frame import Frame
from mmlens.inputs.patch_geometry.packed import in_raster, packed_places

_LATENT = replace(LLAMA_BLOCK, attn=LATENT_ATTENTION)
_SPARSE = replace(_LATENT, mlp=SHARED_MIXTURE)


def _merges(config: Config, tensors: dict[str, Any]) -> list[int]:
    return [config.vision_config.merge_kernel_size[0]] * len(tensors["image_grid_thw"])


def _expand(config: Config, tensors: dict[str, Any]) -> list[int]:
    return (tensors["image_grid_thw"].prod(-1) // math.prod(config.vision_config.merge_kernel_size)).tolist()


def _padded(processor: Any | None, original: tuple[int, int], area: tuple[int, int]) -> Frame:
    """The frame of a picture that was made smaller if it was too large, and padded to whole squares."""
    if processor is None or original == area:
        return Frame(*original, (area[0] / original[0], area[1] / original[1]))
    side = processor.patch_size
    patches = [max(1, length // side) for length in original]
    limits = [math.sqrt(processor.max_patches / math.prod(patches))]
    limits += [processor.size["max_height"] * side / length for length in original]
    scale = min(1.0, *limits)
    return Frame(*original, (int(original[0] * scale) / original[0], int(original[1] * scale) / original[1]))


KIMI_K2_5 = register_family(
    Family(
        name="kimi_k2_5",
        classes=("Kimi_K25ForConditionalGeneration",),
        vision=vision_tower("model.vision_tower.layers", PROJECTED_PACKED_BLOCK, packed=True),
        projector=Projector(
            receives=("model.vision_tower.final_layernorm", "hidden_states"),
            returns=FeatureMethod("model", "get_image_features", "pooler_output"),
            mlp=Mlp(down="model.mm_projector.out_proj", up="model.mm_projector.in_proj", act="model.mm_projector.act"),
            receives_rows="vision",
            lone_axis=1,
        ),
        language=llama_language(block=(_LATENT, _SPARSE)),
        places=packed_places(order=in_raster, merges=_merges, frame_of=_padded),
        written_places=lambda c: 0,
        placeholder="<|media_begin|>image<|media_content|><|media_pad|><|media_end|>\n",
        expand=_expand,
    )
)
