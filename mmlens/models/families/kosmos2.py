"""Kosmos-2: a CLIP tower, learned queries that look at its patches once, and a pre-norm decoder with inner norms.

The queries' keys and values are made of the projected patches and of the queries themselves; there is no skip path. In
the language model a norm stands between `attn.hook_z` and the output linear, and one between `mlp.hook_act` and
`mlp.hook_post`. The image tokens are not one token but a run of different ones, which a mask marks.

Source: Peng et al., Kosmos-2: Grounding Multimodal Large Language Models to the World, 2023
(https://arxiv.org/abs/2306.14824).
"""

from typing import Any

import torch

from mmlens.models.families.blocks import CLIP_BLOCK, projected
from mmlens.models.family import (
    Attention,
    Block,
    Config,
    Family,
    Language,
    Mlp,
    Norm,
    Pooling,
    Projector,
    Stack,
    Vision,
    register_family,
)
from mmlens.models.places import Grid, Places, Sizes, boxes_of, cells_of, picture_frame, size_of

_BLOCK = Block(
    attn=projected("out_proj"),
    mlp=Mlp(down="ffn.fc2", up="ffn.fc1", act="ffn.activation_fn", branch="ffn"),
    ln1=Norm("self_attn_layer_norm", centred=True),
    ln2=Norm("final_layer_norm", centred=True),
)


def _is_image(config: Config, tensors: Any) -> torch.Tensor:
    """The positions that the queries take, as the processor's mask says."""
    mask = tensors.get("image_embeds_position_mask")
    ids = tensors["input_ids"]
    return torch.zeros_like(ids, dtype=torch.bool) if mask is None else mask.bool()


def _extra_inputs(config: Config, tensors: dict[str, Any]) -> dict[str, Any]:
    """The mask of image positions; tokens that were added at the end are text."""
    mask = tensors.get("image_embeds_position_mask")
    if mask is None:
        return {}
    added = tensors["input_ids"].shape[1] - mask.shape[1]
    return {"image_embeds_position_mask": torch.cat([mask, mask.new_zeros(len(mask), added)], dim=1)}


def _places(config: Config, tensors: dict[str, Any], sizes: Sizes, processor: Any | None) -> list[Places]:
    """Places of the tower's rows; every sample has one picture."""
    height, width = tensors["pixel_values"].shape[-2:]
    side = config.vision_config.patch_size
    shape = (height // side, width // side)
    cells = cells_of(*shape)
    why = (
        f"the {config.latent_query_num} queries of the projector mix all patches, so they have no place in the image; ask "
        "for part='vision', whose rows are patches"
    )
    found = []
    for sample in range(len(tensors["pixel_values"])):
        frame = picture_frame(processor, size_of(sizes, sample, 0), (height, width))
        boxes = frame.to_original(boxes_of(cells, side))
        vision = Grid(sample, torch.arange(len(cells)) + 1, boxes, cells, shape)
        places = Places(sample, 0, (frame.height, frame.width), {"vision": vision}, {"projector": why, "language": why})
        found.append(places)
    return found


_QUERIES = "image_to_text_projection.x_attn"

KOSMOS2 = register_family(
    Family(
        name="kosmos2",
        classes=("Kosmos2ForConditionalGeneration",),
        vision=Vision(
            stack=Stack("vision_model.model.encoder.layers", CLIP_BLOCK, config=lambda c: c.vision_config),
            read=lambda c: [c.vision_config.num_hidden_layers - 1],
        ),
        projector=Projector(
            receives=("image_to_text_projection", "features"),
            returns="image_to_text_projection",
            pooling=Pooling(
                Attention(
                    kernel=_QUERIES,
                    branch=_QUERIES,
                    q=f"{_QUERIES}.q_proj",
                    k=f"{_QUERIES}.k_proj",
                    v=f"{_QUERIES}.v_proj",
                    o=f"{_QUERIES}.out_proj",
                    joined=True,
                ),
                heads=lambda c: c.text_config.num_attention_heads,
            ),
            queries=True,
            receives_rows="vision",
        ),
        language=Language(
            stack=Stack("text_model.model.layers", _BLOCK, config=lambda c: c.text_config),
            embed="text_model.model.embed_tokens",
            norm=Norm("text_model.model.layer_norm", centred=True),
            head="text_model.lm_head",
        ),
        places=_places,
        is_image=_is_image,
        writes_placeholders=True,
        placeholder="",
        extra_inputs=_extra_inputs,
    )
)
