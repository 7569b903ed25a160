"""DeepSeek-OCR 2: SAM's tower, a second stage of Qwen2 blocks with learned queries, a mixture-of-experts language model.

Convolutions make every fourth patch along each side a row of the second stage (`vision.encoder_blocks`), where as many
learned queries stand behind them: rows see each other, and a query sees all rows and the queries before it. The queries
alone are handed on. The language model's dense and sparse blocks have plain attention.

Pictures longer than the image processor's `tile_size` are cut into crops, which the tower sees in a second run of its
own. Hook points show one run, so such batches are refused.

Source: Wei et al., DeepSeek-OCR 2: Visual Causal Flow, 2026 (https://arxiv.org/abs/2601.20552).
"""

from dataclasses import replace
from typing import Any

import torch

from mmlens.core.errors import InputError
from mmlens.models.families.blocks import LLAMA_BLOCK, SAM_BLOCK, llama_language
from mmlens.models.family import Config, Family, Mlp, Projector, Stack, Vision, register_family
from mmlens.models.places import Frame, Grid, Places, Sizes, boxes_of, cells_of, owners_of, size_of

_SHARED = "mlp.shared_experts"
_SPARSE_BLOCK = replace(
    LLAMA_BLOCK,
    mlp=Mlp(
        branch="mlp",
        router="mlp.gate",
        router_item=0,
        shared=Mlp(
            down=f"{_SHARED}.down_proj", up=f"{_SHARED}.up_proj", gate=f"{_SHARED}.gate_proj", act=f"{_SHARED}.act_fn"
        ),
    ),
)

#: Patches per row of the second stage along each side, and the largest square of them that the first set of queries is for.
_STEP, _FEW = 4, 144


def _queries(side: int) -> int:
    """How many learned queries a square of so many patches a side gets."""
    rows = -(-side // _STEP)
    return _FEW if rows**2 <= _FEW else 256


def _fitted(size: tuple[int, int], square: int) -> Frame:
    """The frame of a picture that is fitted into a square and padded around."""
    new = [round(side * square / max(size)) for side in size]
    bars = [-float((max(new) - side) // 2) for side in new]
    return Frame(*size, (new[0] / size[0], new[1] / size[1]), (bars[0], bars[1]))


def _places(config: Config, tensors: dict[str, Any], sizes: Sizes, processor: Any | None) -> list[Places]:
    """Places of the first stage's rows, in pictures that are not cut into crops."""
    if tensors.get("pixel_values_local") is not None:
        limit = "" if processor is None else f" ({processor.tile_size} pixels)"
        raise InputError(
            f"pixel_values_local holds crops of pictures longer than the image processor's tile_size{limit}. The vision "
            "encoder sees them in a second run, and hook points show one run: make the pictures smaller."
        )
    pixels = tensors["pixel_values"]
    side, square = config.vision_config.sam_config.patch_size, pixels.shape[-1]
    patches = square // side
    cells = cells_of(patches, patches)
    queries = _queries(patches)
    why = (
        f"the {queries} queries of the second stage mix all patches, so they have no place in the image; ask for "
        "part='vision', whose rows are the first stage's patches"
    )
    found = []
    for number, (sample, image, _) in enumerate(owners_of(tensors, config.image_token_id, [queries + 1] * len(pixels))):
        frame = _fitted(size_of(sizes, sample, image) or (square, square), square)
        boxes = frame.to_original(boxes_of(cells, side))
        vision = Grid(number, torch.arange(len(cells)), boxes, cells, (patches, patches))
        size = (frame.height, frame.width)
        found.append(Places(sample, image, size, {"vision": vision}, {"projector": why, "language": why}))
    return found


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
        projector=Projector(
            receives=("model.multi_modal_projector", "input"), returns="model.multi_modal_projector", queries=True
        ),
        language=replace(
            llama_language("model.language_model", head="lm_head"),
            stack=Stack("model.language_model.layers", (LLAMA_BLOCK, _SPARSE_BLOCK), config=lambda c: c.text_config),
        ),
        places=_places,
        placeholder="<image>\n",
    )
)
