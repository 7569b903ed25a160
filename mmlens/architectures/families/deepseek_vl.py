"""DeepSeek-VL and Janus: a SigLIP tower, a two-layer aligner, a Llama language model.

The hybrid has a second tower, SAM's, which sees the picture larger (`vision.high_blocks`, whose rows have no places:
ask for the projector's). Convolutions make as many rows of it as the first tower has, which the aligner lays beside
those: `projector.hook_in` holds the first tower's.

Pictures are resized to fit a square and padded around it. Janus has a second path with a codebook of its own, by which
it draws pictures; reading one does not touch it.

Source: Lu et al., DeepSeek-VL: Towards Real-World Vision-Language Understanding, 2024
(https://arxiv.org/abs/2403.05525); Wu et al., Janus: Decoupling Visual Encoding for Unified Multimodal Understanding
and Generation, 2024 (https://arxiv.org/abs/2410.13848).
"""

from dataclasses import replace
from typing import Any

import torch

from mmlens.architectures.families.blocks import CLIP_BLOCK, SAM_BLOCK, llama_language, projected, vision_tower
from mmlens.architectures.families.projectors import projector_at
from mmlens.architectures.families.reading import vision_config
from mmlens.core.names import Part
from mmlens.declarations.family import Family, Vision
from mmlens.declarations.registry import register_family
from mmlens.declarations.structure import Block, Config, Stack
from mmlens.inputs.patch_geometry import (
    Places,
    Raster,
    Sizes,
    boxes_of,
    cells_of,
    fitted_frame,
    grid_places,
    raster_places,
)
from mmlens.inputs.patch_geometry.anyres import interpolated_from

_JANUS_BLOCK = replace(CLIP_BLOCK, attn=projected("projection_layer"))

_PLACES = grid_places(class_rows=lambda c: 0, drops_class=lambda c: False, frame=fitted_frame)


def _vision(block: Block) -> Vision:
    """The tower, which is read at its last block."""
    return vision_tower("model.vision_model.encoder.layers", block)


DEEPSEEK_VL = register_family(
    Family(
        name="deepseek_vl",
        classes=("DeepseekVLForConditionalGeneration",),
        vision=_vision(CLIP_BLOCK),
        projector=projector_at("model.aligner", "vision_encodings", down="linear2", up="linear1", act="activation"),
        language=llama_language(),
        places=_PLACES,
        placeholder="<image_placeholder>",
    )
)

#: Cells per row along each side, in the map that two convolutions with a step of two make rows of.
_STEP = 4
#: How many of these cells a row is made of on either side: the first convolution adds one, the second two.
_REACH = 3


def _reach_along(patches: int, rows: int) -> torch.Tensor:
    """First and last of the large picture's patches that each row is made of, along one side, `[rows 2]`."""
    read = interpolated_from(patches, rows * _STEP)
    centre = torch.arange(rows) * _STEP
    first = read[(centre - _REACH).clamp(min=0), 0]
    last = read[(centre + _REACH).clamp(max=rows * _STEP - 1), 1]
    # the convolution of the neck adds a neighbour
    return torch.stack([first - 1, last + 1], dim=1).clamp(0, patches - 1)


def _hybrid_places(config: Config, tensors: dict[str, Any], sizes: Sizes, processor: Any | None) -> list[Places]:
    """Places of the first tower's rows, and of the rows that both towers give, which stand for all that they read."""
    large, small = tensors["high_res_pixel_values"].shape[-1], tensors["pixel_values"].shape[-1]
    # both towers' squares, in pixels of the larger picture
    coarse = config.high_res_vision_config.patch_size
    fine = config.vision_config.patch_size * large / small
    rows = small // config.vision_config.patch_size
    cells = cells_of(rows, rows)
    patches = boxes_of(cells, 1) * fine
    reach = _reach_along(large // coarse, rows)
    (top, bottom), (start, end) = reach[cells[:, 0]].unbind(1), reach[cells[:, 1]].unbind(1)
    read = torch.stack([start, top, end + 1, bottom + 1], dim=1) * coarse
    union = torch.cat([torch.minimum(patches, read)[:, :2], torch.maximum(patches, read)[:, 2:]], dim=1)
    tower = Raster(torch.arange(len(cells)), patches, cells, (rows, rows))
    behind = replace(tower, boxes=union)
    rasters: dict[Part, Raster] = {"vision": tower, "projector": behind, "language": behind}
    return raster_places(
        config, tensors, sizes, processor, rasters, tokens=len(cells), target=(large, large), frame=fitted_frame
    )


DEEPSEEK_VL_HYBRID = register_family(
    replace(
        DEEPSEEK_VL,
        name="deepseek_vl_hybrid",
        classes=("DeepseekVLHybridForConditionalGeneration",),
        vision=Vision(
            stack=(
                Stack("model.vision_model.encoder.layers", CLIP_BLOCK, config=vision_config),
                Stack(
                    "model.high_res_vision_model.vision_encoder.layers",
                    SAM_BLOCK,
                    config=lambda c: c.high_res_vision_config,
                    name="high_blocks",
                    nested=True,
                    apart=True,
                    rows="high",
                ),
            ),
            read=lambda c: [("blocks", c.vision_config.num_hidden_layers - 1)],
            beside=lambda c: [
                c.high_res_vision_config.num_hidden_layers - 1,
                c.high_res_vision_config.global_attn_indexes[0],
            ],
        ),
        projector=projector_at("model.aligner", "vision_encodings", down="proj", act="act", receives_rows="vision"),
        places=_hybrid_places,
    )
)

JANUS = register_family(
    Family(
        name="janus",
        classes=("JanusForConditionalGeneration",),
        vision=_vision(_JANUS_BLOCK),
        # the aligner of every checkpoint is two layers deep (vision_config.depth)
        projector=projector_at("model.aligner", "hidden_states", down="hidden_layers.0", up="fc1", act="activation_fn"),
        language=llama_language(),
        places=_PLACES,
        placeholder="<image_placeholder>",
    )
)
