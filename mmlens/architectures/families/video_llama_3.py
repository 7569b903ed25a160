"""VideoLLaMA3 on pictures: a packed SigLIP tower with rotary positions, squares of patches averaged, a Qwen2.

The image processor says how many patches a square has (one, by default, on pictures: nothing is averaged), and lays the
patches out square by square.

Source: Zhang et al., VideoLLaMA 3, 2025 (https://arxiv.org/abs/2501.13106).
"""

from typing import Any

from mmlens.architectures.families.blocks import llama_language, vision_tower
from mmlens.architectures.families.projectors import projector_at
from mmlens.declarations.family import Family
from mmlens.declarations.registry import register_family
from mmlens.declarations.structure import Config
from mmlens.inputs.patch_geometry.packed import packed_places


def _merges(config: Config, tensors: dict[str, Any]) -> list[int]:
    return tensors["image_merge_sizes"].tolist()


def _expand(config: Config, tensors: dict[str, Any]) -> list[int]:
    return (tensors["image_grid_thw"].prod(-1) // tensors["image_merge_sizes"] ** 2).tolist()


VIDEO_LLAMA_3 = register_family(
    Family(
        name="video_llama_3",
        classes=("VideoLlama3ForConditionalGeneration",),
        vision=vision_tower("model.vision_model.encoder.layers", packed=True),
        # behind the tower's last norm and the averaging, so these rows are those that the projector returns
        projector=projector_at("model.projector", "hidden_states", down="readout.2", up="readout.0", act="readout.1"),
        language=llama_language(),
        places=packed_places(merges=_merges),
        placeholder="<|image_pad|>\n",
        expand=_expand,
    )
)
