"""GOT-OCR 2.0: SAM's vision transformer, two strided convolutions, a Llama-like language model.

The tower keeps the patches of a picture as a raster, which most blocks cut into windows for their attention; hooks see
the rows of the whole picture. The attention adds relative positions in code of its own, so that of its points there is
`hook_z` alone. Behind the tower three convolutions mix neighbouring patches: a token stands for all patches that it is
made of, and neighbouring tokens overlap.

Source: Wei et al., General OCR Theory: Towards OCR-2.0 via a Unified End-to-end Model, 2024
(https://arxiv.org/abs/2409.01704).
"""

from typing import Any

from mmlens.architectures.families.blocks import SAM_BLOCK, llama_language
from mmlens.architectures.families.reading import vision_config
from mmlens.core.names import Part
from mmlens.declarations.family import Family, Vision
from mmlens.declarations.projector import Projector
from mmlens.declarations.registry import register_family
from mmlens.declarations.structure import Config, Stack
from mmlens.inputs.patch_geometry import Places, Raster, Sizes, patches_of, raster_places
from mmlens.inputs.patch_geometry.convolved import convolved


def _places(config: Config, tensors: dict[str, Any], sizes: Sizes, processor: Any | None) -> list[Places]:
    shape, side = patches_of(config, tensors)
    rows = convolved(shape, side)
    rasters: dict[Part, Raster] = {"vision": Raster.of(shape, side), "projector": rows, "language": rows}
    return raster_places(config, tensors, sizes, processor, rasters, tokens=len(rows.rows))


GOT_OCR2 = register_family(
    Family(
        name="got_ocr2",
        classes=("GotOcr2ForConditionalGeneration",),
        vision=Vision(
            stack=Stack("model.vision_tower.layers", SAM_BLOCK, config=vision_config, nested=True),
            read=lambda c: [c.vision_config.num_hidden_layers - 1],
        ),
        projector=Projector(
            receives=("model.vision_tower.neck", "hidden_states"),
            returns="model.multi_modal_projector",
            receives_rows="vision",
            nested=True,
        ),
        language=llama_language(),
        places=_places,
        placeholder="<img><imgpad></img>\n",
    )
)
