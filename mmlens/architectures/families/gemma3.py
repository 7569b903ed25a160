"""Gemma 3: a SigLIP tower, pooling and one matrix, a language model with norms around every branch.

Patches are averaged over squares before they enter the language model, where the tokens of one picture attend to each
other in both directions; most layers look back only over a window. `token_type_ids` say which tokens are a picture's.
Pictures are not cut into crops ("pan and scan") unless the image processor is told so, which `prepare` does not do.
ShieldGemma 2 is a Gemma 3 that answers with two logits; wrap the model that it holds, `shield.model`.

Source: Gemma Team, Gemma 3 Technical Report, 2025 (https://arxiv.org/abs/2503.19786).
"""

from typing import Any

from mmlens.architectures.families.blocks import GEMMA_LANGUAGE, vision_tower
from mmlens.architectures.families.projectors import projector_at
from mmlens.declarations.family import Family
from mmlens.declarations.registry import register_family
from mmlens.declarations.structure import Config
from mmlens.inputs.patch_geometry.merging import merging_places


def _pooled(config: Config) -> int:
    """Side of the squares of patches that are averaged."""
    side = config.vision_config.image_size // config.vision_config.patch_size
    return int(side // int(config.mm_tokens_per_image**0.5))


def _extra_inputs(config: Config, tensors: dict[str, Any]) -> dict[str, Any]:
    """The tokens of a picture attend to each other in both directions."""
    return {"token_type_ids": (tensors["input_ids"] == config.image_token_id).long()}


GEMMA3 = register_family(
    Family(
        name="gemma3",
        classes=("Gemma3ForConditionalGeneration",),
        vision=vision_tower("model.vision_tower.encoder.layers"),
        projector=projector_at("model.multi_modal_projector", "vision_outputs", receives_rows="vision"),
        language=GEMMA_LANGUAGE,
        places=merging_places(merge=_pooled),
        placeholder="<start_of_image>",
        nested_pictures=True,
        extra_inputs=_extra_inputs,
    )
)
