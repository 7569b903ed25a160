"""What families share whose vision tower lays the patches of all pictures out in one sequence and merges squares of them."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from mmlens.architectures.families.blocks import gated_mlp, projected
from mmlens.architectures.families.reading import vision_config
from mmlens.declarations.family import Videos, Vision
from mmlens.declarations.structure import Attention, Block, Config, Mlp, Norm, Stack
from mmlens.inputs.patch_geometry.packed import packed_video_places
from mmlens.inputs.video_frames import packed_frames, packed_reader, size_by_frame

#: Qwen2-VL: layer norms, fused queries, keys and values, two-layer MLP.
PACKED_BLOCK = Block(
    attn=Attention(kernel="attn", branch="attn", qkv="attn.qkv", o="attn.proj"),
    mlp=Mlp(down="mlp.fc2", up="mlp.fc1", act="mlp.act", branch="mlp"),
    ln1=Norm("norm1", centred=True),
    ln2=Norm("norm2", centred=True),
)

#: Kimi and Muse: the same with a linear each for queries, keys and values.
PROJECTED_PACKED_BLOCK = replace(PACKED_BLOCK, attn=projected("proj", "attn"))

#: Qwen2.5-VL and GLM-4V: RMS norms, gated MLP.
GATED_PACKED_BLOCK = Block(attn=PACKED_BLOCK.attn, mlp=gated_mlp(branch="mlp"), ln1=Norm("norm1"), ln2=Norm("norm2"))


def packed_vision(block: Block, path: str = "model.visual.blocks") -> Vision:
    """A packed tower that is read at its last block.

    Args:
        block: what its blocks look like.
        path: where they are.
    """
    stack = Stack(path, block, config=vision_config, heads=lambda v: v.num_heads, packed=True)
    return Vision(stack=stack, read=lambda c: [c.vision_config.depth - 1])


def merged_tokens(config: Config, tensors: dict[str, Any]) -> list[int]:
    """Image tokens of every picture: one per merged square."""
    merge = config.vision_config.spatial_merge_size**2
    return (tensors["image_grid_thw"].prod(-1) // merge).tolist()


def token_modalities(config: Config, tensors: dict[str, Any]) -> dict[str, Any]:
    """Which tokens hold a picture (1) or a video (2): multimodal rotary positions are made from that."""
    if "pixel_values" not in tensors and "pixel_values_videos" not in tensors:
        return {}
    ids = tensors["input_ids"]
    # a batch holds pictures or videos, and some families write image tokens for both
    kind = 1 if "pixel_values" in tensors else 2
    is_picture = (ids == config.image_token_id) | (ids == getattr(config, "video_token_id", config.image_token_id))
    return {"mm_token_type_ids": kind * is_picture.int()}


def merged_frames(config: Config, tensors: dict[str, Any], counts: list[int], fps: float, mark: str) -> list[str]:
    """The text that stands for every video: one token per merged square and group of frames."""
    merge = config.vision_config.spatial_merge_size**2
    return [mark * int(count) for count in tensors["video_grid_thw"].prod(-1) // merge]


def with_durations(name: str) -> Callable[[Config, dict[str, Any], float], dict[str, Any]]:
    """The tensors of a video with the seconds that a group of frames lasts, which rotary positions count.

    Args:
        name: what the model calls these seconds.
    """

    def inputs(config: Config, tensors: dict[str, Any], fps: float) -> dict[str, Any]:
        seconds = config.vision_config.temporal_patch_size / fps
        return {**tensors, name: torch.full((len(tensors["video_grid_thw"]),), seconds)}

    return inputs


#: Videos of Qwen2-VL: a row stands for two frames, and nothing tells the time.
PACKED_VIDEOS = Videos(
    reader=packed_reader,
    pixels=packed_frames(size=size_by_frame),
    expand=merged_frames,
    places=packed_video_places(),
    placeholder="<|vision_start|>{}<|vision_end|>",
)
