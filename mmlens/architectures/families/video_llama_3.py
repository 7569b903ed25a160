"""VideoLLaMA3 on pictures: a packed SigLIP tower with rotary positions, squares of patches averaged, a Qwen2.

The image processor says how many patches a square has (one, by default, on pictures: nothing is averaged), and lays the
patches out square by square.

Source: Zhang et al., VideoLLaMA 3, 2025 (https://arxiv.org/abs/2501.13106).
"""

from typing import Any

from mmlens.architectures.families.blocks import CLIP_BLOCK, llama_language
from mmlens.declarations.family import Family, Projector, Vision
from mmlens.declarations.registry import register_family
from mmlens.declarations.structure import Config, Mlp, Stack
from mmlens.inputs.patch_geometry.packed import packed_places


def _merges(config: Config, tensors: dict[str, Any]) -> list[int]:
    return tensors["image_merge_sizes"].tolist()


def _expand(config: Config, tensors: dict[str, Any]) -> list[int]:
    return (tensors["image_grid_thw"].prod(-1) // tensors["image_merge_sizes"] ** 2).tolist()


VIDEO_LLAMA_3 = register_family(
    Family(
        name="video_llama_3",
        classes=("VideoLlama3ForConditionalGeneration",),
        vision=Vision(
            stack=Stack("model.vision_model.encoder.layers", CLIP_BLOCK, config=lambda c: c.vision_config, packed=True),
            read=lambda c: [c.vision_config.num_hidden_layers - 1],
        ),
        # behind the tower's last norm and the averaging, so these rows are those that the projector returns
        projector=Projector(
            receives=("model.projector", "hidden_states"),
            returns="model.projector",
            mlp=Mlp(down="model.projector.readout.2", up="model.projector.readout.0", act="model.projector.readout.1"),
        ),
        language=llama_language("model.language_model", head="lm_head"),
        places=packed_places(merges=_merges),
        placeholder="<|image_pad|>\n",
        expand=_expand,
    )
)
