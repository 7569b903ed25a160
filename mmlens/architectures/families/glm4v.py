"""GLM-4.1V, GLM-4.5V, GLM-4.6V and GLM-OCR: a packed tower whose squares are merged by a convolution.

Between tower and language model stand a norm, the convolution, and a gated MLP behind a linear. The dense language models
have a norm in front of every branch and one behind it, and one linear for gate and up; the mixtures are built as Llama,
with an expert that all tokens pass through (`mlp.shared.`) and first blocks that are dense.

A row of a video stands for two frames; the tower sees every pair as a picture of its own, and so does the text.

Source: Hong et al., GLM-4.1V-Thinking and GLM-4.5V, 2025 (https://arxiv.org/abs/2507.01006).
"""

from dataclasses import replace
from typing import Any

from mmlens.architectures.families.blocks import LLAMA_BLOCK, SHARED_MIXTURE, gated_mlp, llama_language, projected
from mmlens.architectures.families.packed import GATED_PACKED_BLOCK, merged_tokens, packed_vision, token_modalities
from mmlens.declarations.family import Family, Videos
from mmlens.declarations.projector import Projector
from mmlens.declarations.registry import register_family
from mmlens.declarations.structure import Block, Config, Mlp, Norm
from mmlens.inputs.patch_geometry.packed import packed_places, packed_video_places
from mmlens.inputs.video_frames import packed_frames, packed_reader, size_by_video

_SANDWICH = Block(
    attn=projected("o_proj", branch="post_self_attn_layernorm"),
    mlp=Mlp(down="mlp.down_proj", gate_up="mlp.gate_up_proj", act="mlp.activation_fn", branch="post_mlp_layernorm"),
    ln1=Norm("input_layernorm"),
    ln2=Norm("post_attention_layernorm"),
)
_SPARSE = replace(LLAMA_BLOCK, mlp=SHARED_MIXTURE)


def _with_times(config: Config, tensors: dict[str, Any], counts: list[int], fps: float, mark: str) -> list[str]:
    """The text that stands for every video: the image tokens of each pair of frames, and the whole second of its first."""
    merge, together = config.vision_config.spatial_merge_size**2, config.vision_config.temporal_patch_size
    texts = []
    for groups, high, wide in tensors["video_grid_thw"].tolist():
        image = f"<|begin_of_image|>{'<|image|>' * (high * wide // merge)}<|end_of_image|>"
        texts.append("".join(f"{image}{int(group * together / fps)}" for group in range(groups)))
    return texts


_VIDEOS = Videos(
    reader=packed_reader,
    pixels=packed_frames(size=size_by_video),
    expand=_with_times,
    places=packed_video_places(token=lambda c: c.image_token_id),
    mark="<|video|>",
    placeholder="<|begin_of_video|>{}<|end_of_video|>",
)

GLM4V = register_family(
    Family(
        name="glm4v",
        classes=(
            "Glm4vForConditionalGeneration",
            "Glm4vMoeForConditionalGeneration",
            "Glm46VForConditionalGeneration",
            "GlmOcrForConditionalGeneration",
        ),
        vision=packed_vision(GATED_PACKED_BLOCK),
        projector=Projector(
            receives=("model.visual.post_layernorm", "hidden_states"),
            returns="model.visual.merger",
            mlp=gated_mlp("model.visual.merger"),
            receives_rows="vision",
        ),
        language=llama_language(block=(_SANDWICH, LLAMA_BLOCK, _SPARSE)),
        places=packed_places(),
        placeholder="<|begin_of_image|><|image|><|end_of_image|>",
        expand=merged_tokens,
        extra_inputs=token_modalities,
        videos=_VIDEOS,
    )
)
