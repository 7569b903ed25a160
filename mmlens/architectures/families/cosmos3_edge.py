"""Cosmos 3 Edge, as far as it reads pictures: a packed SigLIP 2 tower, squares merged, a Llama with plain MLPs.

Source: NVIDIA, Cosmos 3 Edge model card, 2026 (https://huggingface.co/nvidia/Cosmos3-Edge).
"""

from dataclasses import replace

from mmlens.architectures.families.blocks import CLIP_BLOCK, LLAMA_BLOCK, llama_language, vision_tower
from mmlens.architectures.families.packed import merged_tokens, token_modalities
from mmlens.architectures.families.projectors import projector_at
from mmlens.declarations.family import Family
from mmlens.declarations.registry import register_family
from mmlens.inputs.patch_geometry.packed import packed_places

COSMOS3_EDGE = register_family(
    Family(
        name="cosmos3_edge",
        classes=("Cosmos3EdgeForConditionalGeneration",),
        vision=vision_tower("model.visual.encoder.layers", packed=True),
        projector=projector_at(
            "model.projector", "x", down="linear_fc2", up="linear_fc1", act="act_fn", receives_rows="vision"
        ),
        language=llama_language(block=replace(LLAMA_BLOCK, mlp=CLIP_BLOCK.mlp)),
        places=packed_places(),
        placeholder="<|vision_start|><|image_pad|><|vision_end|>",
        expand=merged_tokens,
        extra_inputs=token_modalities,
    )
)
