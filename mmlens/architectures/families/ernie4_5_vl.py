"""ERNIE 4.5 VL: a packed tower, and a mixture with experts of its own for the tokens of a picture.

The picture's tokens and the two around them go through other experts than text does, so no module returns the router logits
of all positions and there is no `hook_router`; the expert that all tokens pass through is `mlp.shared.`. The projector
merges squares, then pairs of frames (a picture is paired with itself), each with an MLP of its own: what the first
returns is `projector.hook_mixer_out`, the second is `projector.mlp.`.

Source: Baidu ERNIE Team, ERNIE 4.5 Technical Report, 2025 (https://yiyan.baidu.com/blog/publication/ERNIE_Technical_Report.pdf).
"""

from dataclasses import replace
from typing import Any

import torch

from mmlens.architectures.families.blocks import LLAMA_BLOCK, SHARED_MIXTURE, llama_language
from mmlens.architectures.families.packed import PACKED_BLOCK, merged_tokens, packed_vision, token_modalities
from mmlens.architectures.families.projectors import projector_at
from mmlens.declarations.family import Family
from mmlens.declarations.registry import register_family
from mmlens.declarations.structure import Config, Mlp
from mmlens.inputs.patch_geometry.packed import packed_places

_SPARSE = replace(LLAMA_BLOCK, mlp=Mlp(branch="mlp", shared=SHARED_MIXTURE.shared))
_RESAMPLER = "model.resampler_model"


def _kinds_of_tokens(config: Config, tensors: dict[str, Any]) -> dict[str, Any]:
    """Which tokens are image tokens, and which tokens go through the picture's experts."""
    kinds = token_modalities(config, tensors)
    if kinds:
        ids = tensors["input_ids"]
        around = torch.tensor([config.image_start_token_id, config.image_end_token_id], device=ids.device)
        kinds["moe_mm_token_type_ids"] = kinds["mm_token_type_ids"] | torch.isin(ids, around).int()
    return kinds


ERNIE4_5_VL = register_family(
    Family(
        name="ernie4_5_vl",
        classes=("Ernie4_5_VLMoeForConditionalGeneration", "Ernie4_5_VL_MoeForConditionalGeneration"),
        vision=packed_vision(PACKED_BLOCK, "model.vision_tower.blocks"),
        projector=projector_at(
            _RESAMPLER,
            "hidden_states",
            down="temporal_linear.fc2",
            up="temporal_linear.fc1",
            act="temporal_linear.act_fn",
            mixer=f"{_RESAMPLER}.spatial_linear",
            receives_rows="vision",
        ),
        language=llama_language(block=(LLAMA_BLOCK, _SPARSE)),
        places=packed_places(),
        placeholder="<|IMAGE_START|><|IMAGE_PLACEHOLDER|><|IMAGE_END|>",
        expand=merged_tokens,
        extra_inputs=_kinds_of_tokens,
    )
)
