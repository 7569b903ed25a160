"""Idefics (80B, 9B): a CLIP tower, a perceiver, and gated cross-attention blocks between those of a Llama.

As in Flamingo, the cross-attention blocks are a list of their own, `cross_blocks`, one in front of every few blocks;
what they add is multiplied by the tanh of a learned number. A text position looks at the last picture in front of it
alone; what cross-attention gives at positions in front of the first is dropped, whatever `hook_cross_attn_out` says.
The perceiver's blocks are no modules and run an attention of their own, so there are no points inside it. The special
tokens have embeddings and logits in tables of their own.

Source: Laurençon et al., OBELICS: An Open Web-Scale Filtered Dataset of Interleaved Image-Text Documents, 2023
(https://arxiv.org/abs/2306.16527); Alayrac et al., Flamingo, 2022 (https://arxiv.org/abs/2204.14198).
"""

from dataclasses import replace
from typing import Any

import torch

from mmlens.architectures.families.blocks import LLAMA_BLOCK, projected, vision_tower
from mmlens.architectures.families.projectors import projector_at
from mmlens.core.names import Part
from mmlens.declarations.family import Crossing, Family, Language
from mmlens.declarations.registry import register_family
from mmlens.declarations.structure import Block, Config, Norm, Stack
from mmlens.inputs.patch_geometry import Places, Sizes, mixed_rows, vision_places

_CROSS_BLOCK = Block(
    cross=replace(
        projected("o_proj", module="cross_attn"), scale=lambda block: block.get_parameter("alpha_cross_attn").tanh()
    ),
    mlp=replace(LLAMA_BLOCK.mlp, scale=lambda block: block.get_parameter("alpha_dense").tanh()),
    ln1=LLAMA_BLOCK.ln1,
    ln2=LLAMA_BLOCK.ln2,
)


def _is_image(config: Config, tensors: Any) -> torch.Tensor:
    """The positions from which on a picture may be looked at: the configuration does not name its token."""
    mask = tensors.get("image_attention_mask")
    if mask is None:
        return torch.zeros_like(tensors["input_ids"], dtype=torch.bool)
    visible = mask.bool()
    before = torch.cat([torch.zeros_like(visible[:, :1]), visible[:, :-1]], dim=1)
    return (visible & ~before).any(-1)


def _places(config: Config, tensors: dict[str, Any], sizes: Sizes, processor: Any | None) -> list[Places]:
    """Places of the tower's rows."""
    limit = tensors["pixel_values"].shape[1]
    pictures = tensors["image_attention_mask"].bool().any(1).sum(-1).tolist()
    entries = [(sample * limit + image, sample, image) for sample, n in enumerate(pictures) for image in range(n)]
    why = (
        "the language model's rows hold no picture features: its cross-attention blocks look at the perceiver's latents"
    )
    latents = f"{config.perceiver_config.resampler_n_latents} latents of the perceiver"
    placeless: dict[Part, str] = {**mixed_rows(latents), "language": why}
    return vision_places(config, tensors, sizes, processor, placeless, entries=entries)


IDEFICS = register_family(
    Family(
        name="idefics",
        classes=("IdeficsForVisionText2Text",),
        vision=vision_tower("model.vision_model.encoder.layers"),
        projector=projector_at(
            "model.perceiver_resampler",
            "context",
            queries=True,
            width=lambda c: c.vision_config.embed_dim,
            receives_rows="vision",
        ),
        language=Language(
            stack=Stack("model.layers", LLAMA_BLOCK, config=lambda c: c),
            embed="model.embed_tokens",
            norm=Norm("model.norm"),
            head="lm_head",
            merges=False,
            crossing=Crossing(
                Stack("model.gated_cross_attn_layers", _CROSS_BLOCK, config=lambda c: c, name="cross_blocks"),
                every=lambda c: c.cross_layer_interval,
            ),
            more_tokens=lambda c: c.additional_vocab_size,
        ),
        places=_places,
        is_image=_is_image,
        writes_placeholders=True,
        placeholder="",
    )
)
