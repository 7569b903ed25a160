"""DeepSeek-OCR 2 and Unlimited-OCR: SAM's tower, a second stage behind it, a mixture-of-experts language model.

Convolutions make every fourth patch along each side a row of the second stage (`vision.encoder_blocks`). In DeepSeek-OCR
2 its blocks are Qwen2's, and as many learned queries stand behind the rows: rows see each other, and a query sees all
rows and the queries before it; the queries alone are handed on. In Unlimited-OCR the blocks are CLIP's; each row is
handed on beside what the convolutions made of it, and every line of tokens ends with a newline. The language model's
dense and sparse blocks have plain attention.

Pictures longer than the image processor's `tile_size` are cut into crops, which the tower sees in a second run of its
own. Hook points show one run, so such batches are refused.

Source: Wei et al., DeepSeek-OCR 2: Visual Causal Flow, 2026 (https://arxiv.org/abs/2601.20552); Baidu, Unlimited-OCR, 2026 (https://huggingface.co/baidu/Unlimited-OCR).
"""

from dataclasses import replace
from typing import Any

import torch

from mmlens.architectures.families.blocks import CLIP_BLOCK, LLAMA_BLOCK, SAM_BLOCK, SHARED_MIXTURE, llama_language
from mmlens.architectures.families.projectors import projector_at
from mmlens.core.errors import InputError
from mmlens.core.names import Part
from mmlens.declarations.family import Family, Vision
from mmlens.declarations.registry import register_family
from mmlens.declarations.structure import Config, Stack
from mmlens.inputs.patch_geometry import Frame, Places, Raster, Sizes, mixed_rows, raster_places
from mmlens.inputs.patch_geometry.convolved import convolved

_SPARSE_BLOCK = replace(LLAMA_BLOCK, mlp=SHARED_MIXTURE)

#: Patches per row of the second stage along each side, and the largest square of them that the first set of queries is for.
_STEP, _FEW = 4, 144


def _queries(side: int) -> int:
    """How many learned queries a square of so many patches a side gets."""
    rows = -(-side // _STEP)
    return _FEW if rows**2 <= _FEW else 256


def _fitted(processor: Any | None, size: tuple[int, int] | None, square: tuple[int, int]) -> Frame:
    """The frame of a picture that is fitted into a square and padded around."""
    size = size or square
    new = [round(side * square[0] / max(size)) for side in size]
    bars = [-float((max(new) - side) // 2) for side in new]
    return Frame(*size, (new[0] / size[0], new[1] / size[1]), (bars[0], bars[1]))


def _refuse_crops(tensors: dict[str, Any], processor: Any | None) -> None:
    """Hook points show one run of the tower.

    Raises:
        InputError: if crops of pictures were given.
    """
    if tensors.get("pixel_values_local") is not None:
        limit = "" if processor is None else f" ({processor.tile_size} pixels)"
        raise InputError(
            f"pixel_values_local holds crops of pictures longer than the image processor's tile_size{limit}. The vision "
            "encoder sees them in a second run, and hook points show one run: make the pictures smaller."
        )


def _patches(config: Config, tensors: dict[str, Any]) -> tuple[tuple[int, int], int]:
    """(rows, columns) of the first stage's patches, and the side of a patch."""
    side = config.vision_config.sam_config.patch_size
    count = tensors["pixel_values"].shape[-1] // side
    return (count, count), side


def _places(config: Config, tensors: dict[str, Any], sizes: Sizes, processor: Any | None) -> list[Places]:
    """Places of the first stage's rows, in pictures that are not cut into crops."""
    _refuse_crops(tensors, processor)
    shape, side = _patches(config, tensors)
    queries = _queries(shape[0])
    placeless = mixed_rows(f"{queries} queries of the second stage")
    rasters: dict[Part, Raster] = {"vision": Raster.of(shape, side)}
    return raster_places(config, tensors, sizes, processor, rasters, placeless, tokens=queries + 1, frame=_fitted)


def _line_places(config: Config, tensors: dict[str, Any], sizes: Sizes, processor: Any | None) -> list[Places]:
    """Places in pictures that are not cut into crops, where tokens lie in lines that end with a newline."""
    _refuse_crops(tensors, processor)
    shape, side = _patches(config, tensors)
    rows = convolved(shape, side)
    lines, columns = rows.shape
    numbers = torch.arange(lines * (columns + 1)).view(lines, columns + 1)[:, :-1].flatten()
    rasters: dict[Part, Raster] = {
        "vision": Raster.of(shape, side),
        "projector": rows,
        "language": replace(rows, rows=numbers),
    }
    # behind the last line stands a separator
    tokens = lines * (columns + 1) + 1
    return raster_places(config, tensors, sizes, processor, rasters, tokens=tokens, frame=_fitted)


DEEPSEEK_OCR2 = register_family(
    Family(
        name="deepseek_ocr2",
        classes=("DeepseekOcr2ForConditionalGeneration",),
        vision=Vision(
            stack=(
                Stack(
                    "model.vision_tower.sam_encoder.layers",
                    SAM_BLOCK,
                    config=lambda c: c.vision_config.sam_config,
                    nested=True,
                ),
                Stack(
                    "model.vision_tower.vision_encoder.layers",
                    LLAMA_BLOCK,
                    config=lambda c: c.vision_config.encoder_config,
                    name="encoder_blocks",
                    rows="encoder",
                ),
            ),
            read=lambda c: [c.vision_config.encoder_config.num_hidden_layers - 1],
        ),
        projector=projector_at("model.multi_modal_projector", "input", queries=True),
        language=llama_language(block=(LLAMA_BLOCK, _SPARSE_BLOCK)),
        places=_places,
        placeholder="<image>\n",
    )
)

UNLIMITED_OCR = register_family(
    replace(
        DEEPSEEK_OCR2,
        name="unlimited_ocr",
        classes=("UnlimitedOcrForConditionalGeneration",),
        vision=Vision(
            stack=(
                DEEPSEEK_OCR2.vision.stacks[0],
                Stack(
                    "model.vision_tower.vision_encoder.encoder.layers",
                    CLIP_BLOCK,
                    config=lambda c: c.vision_config.encoder_config,
                    name="encoder_blocks",
                    rows="encoder",
                ),
            ),
            read=lambda c: [
                c.vision_config.encoder_config.num_hidden_layers - 1,
                ("blocks", c.vision_config.sam_config.num_hidden_layers - 1),
            ],
        ),
        projector=projector_at(
            "model.multi_modal_projector",
            "input",
            received_width=lambda c: (
                c.vision_config.encoder_config.hidden_size + c.vision_config.sam_config.downsample_channels[-1]
            ),
        ),
        places=_line_places,
        # of crops, which there are none of
        for_counting=("num_local_patches", "patches_grid"),
    )
)
