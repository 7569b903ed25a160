"""InternVL and Qianfan-OCR: a vision transformer with layer scales, patches merged before the projector, a Llama.

A picture is stretched to a canvas of tiles, which is followed by its whole on one tile. Each tile's patches are merged
2 x 2 by laying their features side by side, so that the projector receives wider and fewer rows than the tower returns.
The frames of a video are squeezed to one tile each, and numbered in the text.

Source: Chen et al., InternVL: Scaling up Vision Foundation Models, 2023 (https://arxiv.org/abs/2312.14238); Zhu et al.,
InternVL3, 2025 (https://arxiv.org/abs/2504.10479); Baidu, Qianfan-OCR, 2026
(https://huggingface.co/baidu/Qianfan-OCR).
"""

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from mmlens.architectures.families.blocks import llama_language, projected, vision_tower
from mmlens.architectures.families.projectors import two_layer_projector
from mmlens.architectures.families.reading import feature_layers, vision_config
from mmlens.declarations.family import Family, Videos
from mmlens.declarations.registry import register_family
from mmlens.declarations.structure import Block, Config, Mlp, Norm, Stack
from mmlens.inputs.patch_geometry import boxes_of, cells_of
from mmlens.inputs.patch_geometry.frames import frame_places
from mmlens.inputs.patch_geometry.tile import canvas_places, canvas_tokens
from mmlens.inputs.video_frames import plain_reader, stacked_frames


def _is_layer_norm(norm: nn.Module) -> bool:
    """The largest checkpoints have RMS norms in the tower, the others layer norms."""
    return isinstance(norm, nn.LayerNorm)


_BLOCK = Block(
    attn=replace(projected("projection_layer", "attention"), scale=lambda block: block.get_parameter("lambda_1")),
    mlp=Mlp(
        down="mlp.fc2",
        up="mlp.fc1",
        act="mlp.activation_fn",
        branch="mlp",
        scale=lambda block: block.get_parameter("lambda_2"),
    ),
    ln1=Norm("layernorm_before", centred=_is_layer_norm),
    ln2=Norm("layernorm_after", centred=_is_layer_norm),
)


def _merge(config: Config) -> int:
    return int(1 / config.downsample_ratio)


_tokens = canvas_tokens(merge=_merge)


def _expand(config: Config, tensors: dict[str, Any]) -> list[str]:
    return [f"<img>{'<IMG_CONTEXT>' * count}</img>" for count in _tokens(config, tensors)]


def _merged(config: Config, patches: tuple[int, int]) -> tuple[torch.Tensor, tuple[int, int]]:
    side = _merge(config)
    shape = (patches[0] // side, patches[1] // side)
    return boxes_of(cells_of(*shape), side), shape


def _frames_in_text(config: Config, tensors: dict[str, Any], counts: list[int], fps: float, mark: str) -> list[str]:
    """The text that stands for every video: its frames, each announced by its number."""
    side = config.vision_config.patch_size
    height, width = tensors["pixel_values_videos"].shape[-2:]
    cells, _ = _merged(config, (height // side[0], width // side[1]))
    frame = f"<img>{'<IMG_CONTEXT>' * len(cells)}</img>"
    return ["\n".join(f"Frame{number + 1}: {frame}" for number in range(count)) for count in counts]


def _as_pictures(config: Config, tensors: dict[str, Any], fps: float) -> dict[str, Any]:
    """The model takes frames as it takes tiles."""
    return {"pixel_values": tensors["pixel_values_videos"].flatten(0, 1)}


_VIDEOS = Videos(
    reader=plain_reader(),
    pixels=stacked_frames,
    expand=_frames_in_text,
    inputs=_as_pictures,
    places=frame_places(
        projector_cells=_merged,
        token_cells=_merged,
        class_rows=lambda c: 1,
        token=lambda c: c.image_token_id,
        pixels="pixel_values",
    ),
    mark="<video>",
)

INTERNVL = register_family(
    Family(
        name="internvl",
        classes=("InternVLForConditionalGeneration",),
        vision=vision_tower("model.vision_tower.encoder.layer", _BLOCK, read=feature_layers),
        projector=replace(two_layer_projector(), side_by_side=lambda c: _merge(c) ** 2),
        language=llama_language(),
        places=canvas_places(merge=_merge, class_rows=1),
        placeholder="<IMG_CONTEXT>\n",
        expand=_expand,
        image_options=lambda c: {"crop_to_patches": True},
        videos=_VIDEOS,
        for_counting=("num_patches",),
    )
)

QIANFAN_OCR = register_family(
    replace(
        INTERNVL,
        name="qianfan_ocr",
        classes=("QianfanOCRForConditionalGeneration",),
        videos=None,
        vision=replace(INTERNVL.vision, stack=Stack("model.vision_tower.layers", _BLOCK, config=vision_config)),
    )
)
