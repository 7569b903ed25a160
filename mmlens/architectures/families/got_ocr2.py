"""GOT-OCR 2.0: SAM's vision transformer, two strided convolutions, a Llama-like language model.

The tower keeps the patches of a picture as a raster, which most blocks cut into windows for their attention; hooks see
the rows of the whole picture. The attention adds relative positions in code of its own, so that of its points there is
`hook_z` alone. Behind the tower three convolutions mix neighbouring patches: a token stands for all patches that it is
made of, and neighbouring tokens overlap.

Source: Wei et al., General OCR Theory: Towards OCR-2.0 via a Unified End-to-end Model, 2024
(https://arxiv.org/abs/2409.01704).
"""

from typing import Any

import torch

from mmlens.architectures.families.blocks import SAM_BLOCK, llama_language
from mmlens.core.names import Part
from mmlens.declarations.family import Family, Projector, Vision
from mmlens.declarations.registry import register_family
from mmlens.declarations.structure import Config, Stack
from mmlens.inputs.patch_geometry import Grid, Places, Sizes, boxes_of, cells_of, owners_of, picture_frame, size_of
from mmlens.inputs.patch_geometry.convolved import convolved


def _places(config: Config, tensors: dict[str, Any], sizes: Sizes, processor: Any | None) -> list[Places]:
    pixels = tensors["pixel_values"]
    side = config.vision_config.patch_size
    height, width = pixels.shape[-2:]
    shape = (height // side, width // side)
    patches = cells_of(*shape)
    merged, tokens, boxes = convolved(shape, side)
    found = []
    owners = owners_of(tensors, config.image_token_id, [len(tokens)] * len(pixels))
    for number, (sample, image, positions) in enumerate(owners):
        frame = picture_frame(processor, size_of(sizes, sample, image), (height, width))
        token_boxes = frame.to_original(boxes)
        grids: dict[Part, Grid | tuple[Grid, ...]] = {
            "vision": Grid(
                number, torch.arange(len(patches)), frame.to_original(boxes_of(patches, side)), patches, shape
            ),
            "projector": Grid(number, torch.arange(len(tokens)), token_boxes, tokens, merged),
            "language": Grid(sample, positions, token_boxes, tokens, merged),
        }
        found.append(Places(sample, image, (frame.height, frame.width), grids, {}))
    return found


GOT_OCR2 = register_family(
    Family(
        name="got_ocr2",
        classes=("GotOcr2ForConditionalGeneration",),
        vision=Vision(
            stack=Stack("model.vision_tower.layers", SAM_BLOCK, config=lambda c: c.vision_config, nested=True),
            read=lambda c: [c.vision_config.num_hidden_layers - 1],
        ),
        projector=Projector(
            receives=("model.vision_tower.neck", "hidden_states"),
            returns="model.multi_modal_projector",
            receives_rows="vision",
            nested=True,
        ),
        language=llama_language("model.language_model", head="lm_head"),
        places=_places,
        placeholder="<img><imgpad></img>\n",
    )
)
