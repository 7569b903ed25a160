"""PaddleOCR-VL: a packed SigLIP tower in raster order, a projector that merges squares, an ERNIE language model.

The projector runs picture by picture, so the hidden neurons of its MLP exist in no one tensor and have no points.

Source: Cui et al., PaddleOCR-VL, 2025 (https://arxiv.org/abs/2510.14528).
"""

from mmlens.architectures.families.blocks import llama_language, vision_tower
from mmlens.architectures.families.packed import merged_tokens, token_modalities
from mmlens.architectures.families.projectors import projector_at
from mmlens.declarations.family import Family
from mmlens.declarations.registry import register_family
from mmlens.inputs.patch_geometry.packed import in_raster, packed_places

PADDLEOCR_VL = register_family(
    Family(
        name="paddleocr_vl",
        classes=("PaddleOCRVLForConditionalGeneration",),
        vision=vision_tower("model.visual.vision_model.encoder.layers", packed=True),
        projector=projector_at("model.projector", receives_rows="vision"),
        language=llama_language(),
        places=packed_places(order=in_raster),
        placeholder="<|IMAGE_START|><|IMAGE_PLACEHOLDER|><|IMAGE_END|>",
        expand=merged_tokens,
        extra_inputs=token_modalities,
    )
)
