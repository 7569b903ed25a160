"""Qwen2-VL and Qwen2.5-VL: a packed vision tower with 2x2 patch merging, and multimodal rotary positions.

The rows of all pictures lie in one sequence without a batch axis, grouped by merged square: row i is not raster patch i.
In Qwen2.5-VL most vision blocks attend within windows only, and the squares lie window by window, in the projector too;
they are put back into raster order between projector and language model.

A row of a video stands for two frames, in every part.

Source: Wang et al., Qwen2-VL, 2024 (https://arxiv.org/abs/2409.12191).
Source: Bai et al., Qwen2.5-VL Technical Report, 2025 (https://arxiv.org/abs/2502.13923).
"""

from dataclasses import replace

from mmlens.architectures.families.blocks import llama_language
from mmlens.architectures.families.packed import (
    GATED_PACKED_BLOCK,
    PACKED_BLOCK,
    PACKED_VIDEOS,
    merged_tokens,
    packed_vision,
    token_modalities,
    with_durations,
)
from mmlens.architectures.families.projectors import projector_at
from mmlens.declarations.family import Family
from mmlens.declarations.registry import register_family
from mmlens.inputs.patch_geometry.packed import by_window, packed_places, packed_video_places

#: The merger of both: a norm, and a two-layer MLP on the concatenated patches of a square.
MERGER = projector_at("model.visual.merger", "x", down="mlp.2", up="mlp.0", act="mlp.1", receives_rows="vision")

QWEN2_VL = register_family(
    Family(
        name="qwen2_vl",
        classes=("Qwen2VLForConditionalGeneration",),
        vision=packed_vision(PACKED_BLOCK),
        projector=MERGER,
        language=llama_language(),
        places=packed_places(),
        placeholder="<|vision_start|><|image_pad|><|vision_end|>",
        expand=merged_tokens,
        extra_inputs=token_modalities,
        videos=PACKED_VIDEOS,
    )
)


QWEN2_5_VL = register_family(
    replace(
        QWEN2_VL,
        name="qwen2_5_vl",
        classes=("Qwen2_5_VLForConditionalGeneration",),
        vision=packed_vision(GATED_PACKED_BLOCK),
        places=packed_places(order=by_window),
        videos=replace(
            PACKED_VIDEOS, places=packed_video_places(order=by_window), inputs=with_durations("second_per_grid_ts")
        ),
    )
)
