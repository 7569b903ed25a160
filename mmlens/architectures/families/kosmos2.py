"""Kosmos-2: a CLIP tower, learned queries that look at its patches once, and a pre-norm decoder with inner norms.

The queries' keys and values are made of the projected patches and of the queries themselves; there is no skip path. In
the language model a norm stands between `attn.hook_z` and the output linear, and one between `mlp.hook_act` and
`mlp.hook_post`. The image tokens are not one token but a run of different ones, which a mask marks.

Kosmos-2.5 reads documents: Pix2Struct's tower, whose patches come already cut, as many as the picture's shape allows,
with padding rows behind them. Its image processor scales every picture by its own mean and deviation, so that a change
of one patch changes all a little. Of the tower's attention points there is `hook_z` alone.

Source: Peng et al., Kosmos-2: Grounding Multimodal Large Language Models to the World, 2023
(https://arxiv.org/abs/2306.14824); Lv et al., KOSMOS-2.5: A Multimodal Literate Model, 2023
(https://arxiv.org/abs/2309.11419).
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from mmlens.architectures.families.blocks import projected, vision_tower
from mmlens.architectures.families.projectors import projector_at
from mmlens.architectures.families.reading import text_config
from mmlens.core.names import Part
from mmlens.declarations.family import Family, Language
from mmlens.declarations.projector import Pooling
from mmlens.declarations.registry import register_family
from mmlens.declarations.structure import Attention, Block, Config, Mlp, Norm, Stack
from mmlens.inputs.patch_geometry import Frame, Places, RowGrid, Sizes, boxes_of, mixed_rows, size_of, vision_places
from mmlens.inputs.position_ids import is_padded_left

_BLOCK = Block(
    attn=projected("out_proj"),
    mlp=Mlp(down="ffn.fc2", up="ffn.fc1", act="ffn.activation_fn", branch="ffn"),
    ln1=Norm("self_attn_layer_norm", centred=True),
    ln2=Norm("final_layer_norm", centred=True),
)


def _is_image(config: Config, tensors: Any) -> torch.Tensor:
    """The positions that the queries take, as the processor's mask says."""
    mask = tensors.get("image_embeds_position_mask")
    return torch.zeros_like(tensors["input_ids"], dtype=torch.bool) if mask is None else mask.bool()


def _position_ids(model: Any, tensors: Mapping[str, Any]) -> torch.Tensor | None:
    """Positions are counted behind the number of the padding token; transformers counts padding too once it decodes cached."""
    mask = tensors.get("attention_mask")
    if mask is None or mask.ndim != 2 or not is_padded_left(mask):
        return None
    first = getattr(model.config, "text_config", model.config).pad_token_id
    return mask.long().cumsum(-1) * mask.long() + first


def _placeless(config: Config) -> dict[Part, str]:
    return mixed_rows(f"{config.latent_query_num} queries of the projector")


def _places(config: Config, tensors: dict[str, Any], sizes: Sizes, processor: Any | None) -> list[Places]:
    """Places of the tower's rows; every sample has one picture."""
    entries = [(sample, sample, 0) for sample in range(len(tensors["pixel_values"]))]
    return vision_places(config, tensors, sizes, processor, _placeless(config), entries=entries)


_QUERIES = "image_to_text_projection.x_attn"

KOSMOS2 = register_family(
    Family(
        name="kosmos2",
        classes=("Kosmos2ForConditionalGeneration",),
        vision=vision_tower("vision_model.model.encoder.layers"),
        projector=projector_at(
            "image_to_text_projection",
            "features",
            pooling=Pooling(
                replace(projected("out_proj", _QUERIES), joined=True), heads=lambda c: c.text_config.num_attention_heads
            ),
            queries=True,
            receives_rows="vision",
        ),
        language=Language(
            stack=Stack("text_model.model.layers", _BLOCK, config=text_config),
            embed="text_model.model.embed_tokens",
            norm=Norm("text_model.model.layer_norm", centred=True),
            head="text_model.lm_head",
        ),
        places=_places,
        is_image=_is_image,
        writes_placeholders=True,
        placeholder="",
        position_ids=_position_ids,
    )
)


def _is_document(config: Config, tensors: Any) -> torch.Tensor:
    """The positions that the queries take; the tokens around them are marked with another number."""
    return _is_image(config, tensors) & (tensors.get("image_embeds_position_mask", 0) == 1)


def _patch_places(config: Config, tensors: dict[str, Any], sizes: Sizes, processor: Any | None) -> list[Places]:
    """Places of patches that come cut, each with its row and column in front, counted from 1; 0 in padding rows."""
    patches = tensors["flattened_patches"]
    places = []
    for sample, numbers in enumerate(patches[..., :2].long().cpu()):
        cells = numbers[numbers[:, 0] > 0] - 1
        shape = (int(cells[:, 0].max()) + 1, int(cells[:, 1].max()) + 1)
        size = size_of(sizes, sample, 0) or (int(tensors["height"][sample]), int(tensors["width"][sample]))
        boxes = Frame(*size, (shape[0] / size[0], shape[1] / size[1])).to_original(boxes_of(cells, 1))
        vision = RowGrid(sample, torch.arange(len(cells)), boxes, cells, shape)
        lengths: dict[Part, int] = {"vision": patches.shape[1]}
        places.append(Places(sample, 0, size, {"vision": vision}, _placeless(config), lengths))
    return places


_PATCH_BLOCK = Block(
    attn=Attention(
        kernel=None,  # it looks for a registered function where none can be found, and always runs its own
        branch="attention",
        q="attention.query",
        k="attention.key",
        v="attention.value",
        o="attention.output",
    ),
    mlp=Mlp(down="mlp.wo", up="mlp.wi_1", gate="mlp.wi_0", act="mlp.act", branch="mlp"),
    ln1=Norm("pre_attention_layer_norm"),
    ln2=Norm("pre_mlp_layer_norm"),
)

KOSMOS2_5 = register_family(
    replace(
        KOSMOS2,
        name="kosmos2_5",
        classes=("Kosmos2_5ForConditionalGeneration",),
        vision=vision_tower("vision_model.encoder.layer", _PATCH_BLOCK),
        places=_patch_places,
        is_image=_is_document,
        pads_right=True,
    )
)
