"""Qwen3-VL, dense and as a mixture of experts, and the part of Cosmos 3 that reads pictures: DeepStack.

Besides the last block's features, which take the place of the image tokens, mergers of their own read earlier vision
blocks; what the n-th returns (`projector.deepstack.{n}.hook_out`) is added to the stream at the image tokens behind the
n-th language block: there `blocks.{n+1}.hook_resid_pre` is that plus `blocks.{n}.hook_resid_post`.

A row of a video stands for two frames; the time of each pair is written in front of its tokens.

Source: Bai et al., Qwen3-VL Technical Report, 2025 (https://arxiv.org/abs/2511.21631).
Source: NVIDIA, Cosmos 3 model card, 2026 (https://huggingface.co/nvidia/Cosmos3-Nano).
Source: Meng et al., DeepStack, 2024 (https://arxiv.org/abs/2406.04334).
"""

from dataclasses import replace
from typing import Any

from mmlens.architectures.families.blocks import LLAMA_BLOCK, MIXTURE, llama_language
from mmlens.architectures.families.packed import (
    PACKED_BLOCK,
    PACKED_VIDEOS,
    merged_tokens,
    packed_vision,
    token_modalities,
)
from mmlens.architectures.families.projectors import projector_at
from mmlens.declarations.family import Family
from mmlens.declarations.projector import DeepStack
from mmlens.declarations.registry import register_family
from mmlens.declarations.structure import Config, Mlp
from mmlens.inputs.patch_geometry.packed import packed_places
from mmlens.inputs.video_frames import packed_frames, size_by_video

#: The vision block: as Qwen2-VL's, its linears called otherwise.
BLOCK = replace(PACKED_BLOCK, mlp=Mlp(down="mlp.linear_fc2", up="mlp.linear_fc1", act="mlp.act_fn", branch="mlp"))

#: The merger behind the last vision block.
MERGER = projector_at(
    "model.visual.merger", "x", down="linear_fc2", up="linear_fc1", act="act_fn", receives_rows="vision"
)


def _with_times(config: Config, tensors: dict[str, Any], counts: list[int], fps: float, mark: str) -> list[str]:
    """The text that stands for every video: each group of frames behind the second in whose middle it lies.

    The last frame, and its time, are repeated where frames are missing for a group.
    """
    merge, together = config.vision_config.spatial_merge_size**2, config.vision_config.temporal_patch_size
    texts = []
    for count, (groups, high, wide) in zip(counts, tensors["video_grid_thw"].tolist(), strict=True):
        times = [min(number, count - 1) / fps for number in range(groups * together)]
        middles = [(times[first] + times[first + together - 1]) / 2 for first in range(0, len(times), together)]
        tokens = f"<|vision_start|>{mark * (high * wide // merge)}<|vision_end|>"
        texts.append("".join(f"<{middle:.1f} seconds>{tokens}" for middle in middles))
    return texts


_SPARSE = replace(LLAMA_BLOCK, mlp=MIXTURE)

QWEN3_VL = register_family(
    Family(
        name="qwen3_vl",
        classes=(
            "Qwen3VLForConditionalGeneration",
            "Qwen3VLMoeForConditionalGeneration",
            "Cosmos3OmniForConditionalGeneration",
        ),
        vision=packed_vision(BLOCK),
        projector=replace(
            MERGER,
            deepstack=DeepStack(
                "model.visual.deepstack_merger_list", Mlp(down="linear_fc2", up="linear_fc1", act="act_fn"), "x"
            ),
        ),
        language=llama_language(block=(LLAMA_BLOCK, _SPARSE)),
        places=packed_places(),
        placeholder="<|vision_start|><|image_pad|><|vision_end|>",
        expand=merged_tokens,
        extra_inputs=token_modalities,
        videos=replace(PACKED_VIDEOS, pixels=packed_frames(size=size_by_video), expand=_with_times),
    )
)
