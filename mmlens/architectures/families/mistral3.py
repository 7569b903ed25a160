"""Mistral 3 and LightOnOCR: a Pixtral tower of any picture size, merging of 2 x 2 patches, a Mistral (3, 4) or Qwen 3.

The patches of all pictures lie in one sequence, which keeps a batch axis of one in the tower and none in the projector.
A mask keeps pictures apart. In Mistral 3 every row of image tokens ends with a token of its own, which has no place.
Mistral 4 makes queries, keys and values from narrow latents, so that no one linear holds their weights, and has mixtures
of experts with one that all rows share; in its large build every query looks at a few keys alone, which a part without
points chooses, and layers may share keys and values: an edit of these is of one layer's alone.

Source: Agrawal et al., Pixtral 12B, 2024 (https://arxiv.org/abs/2410.07073); Mistral AI, Mistral Small 3.1, 2025
(https://mistral.ai/news/mistral-small-3-1); Taghadouini et al., LightOnOCR, 2025
(https://huggingface.co/blog/lightonai/lightonocr).
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from mmlens.architectures.families.blocks import (
    LATENT_ATTENTION,
    LLAMA_BLOCK,
    SHARED_MIXTURE,
    gated_mlp,
    llama_language,
    projected,
)
from mmlens.architectures.families.projectors import projector_at
from mmlens.architectures.families.reading import layer_index, vision_config
from mmlens.declarations.family import Family, Vision
from mmlens.declarations.projector import Projector
from mmlens.declarations.registry import register_family
from mmlens.declarations.structure import Block, Config, Norm, Stack
from mmlens.inputs.patch_geometry.merging import packed_merging_places

_PIXTRAL_BLOCK = Block(
    attn=projected("o_proj", "attention"),
    mlp=gated_mlp("feed_forward", branch="feed_forward"),
    ln1=Norm("attention_norm"),
    ln2=Norm("ffn_norm"),
)


def pixtral_vision(path: str, read: Callable[[Config], Sequence[int]]) -> Vision:
    """A Pixtral tower.

    Args:
        path: the tower.
        read: the blocks that are read, given the model's configuration.
    """
    return Vision(stack=Stack(f"{path}.transformer.layers", _PIXTRAL_BLOCK, config=vision_config), read=read)


def _projector(path: str) -> Projector:
    return projector_at(path, down="linear_2", up="linear_1", act="act", receives_rows="vision", packed=True)


def _has_latents(block: nn.Module) -> bool:
    """Whether keys and values of a language block come from a latent."""
    return hasattr(block.self_attn, "kv_b_proj")


def _read(config: Config) -> Sequence[int]:
    """The block whose output is handed on."""
    depth = config.vision_config.num_hidden_layers
    return [layer_index(config.vision_feature_layer, depth, "vision_feature_layer")]


def _merged(config: Config) -> int:
    """Side of what one image token stands for, in pixels."""
    return int(config.vision_config.patch_size * getattr(config, "spatial_merge_size", 1))


#: Mistral 4: queries, keys and values have two linears each, or share one.
_LATENT = replace(LLAMA_BLOCK, attn=LATENT_ATTENTION, when=_has_latents)
_SPARSE = replace(_LATENT, mlp=SHARED_MIXTURE)


def _tokens(config: Config, tensors: dict[str, Any]) -> list[int]:
    side = _merged(config)
    return [int(height // side) * int(width // side) for height, width in tensors["image_sizes"]]


def rows_of_tokens(config: Config, tensors: dict[str, Any]) -> list[str]:
    """A picture's tokens row by row, with a token between rows and one at the end."""
    side = _merged(config)
    return [
        "[IMG_BREAK]".join(["[IMG]" * int(width // side)] * int(height // side)) + "[IMG_END]"
        for height, width in tensors["image_sizes"]
    ]


MISTRAL3 = register_family(
    Family(
        name="mistral3",
        classes=("Mistral3ForConditionalGeneration", "MistralLarge4ForConditionalGeneration"),
        vision=pixtral_vision("model.vision_tower", _read),
        projector=_projector("model.multi_modal_projector"),
        language=llama_language(block=(_LATENT, _SPARSE, LLAMA_BLOCK)),
        places=packed_merging_places,
        placeholder="[IMG]",
        expand=rows_of_tokens,
        image_options=lambda c: {"patch_size": _merged(c)},
    )
)

LIGHTON_OCR = register_family(
    Family(
        name="lighton_ocr",
        classes=("LightOnOcrForConditionalGeneration",),
        vision=pixtral_vision("model.vision_encoder", lambda c: [c.vision_config.num_hidden_layers - 1]),
        projector=_projector("model.vision_projection"),
        language=llama_language(),
        places=packed_merging_places,
        placeholder="<|image_pad|>",
        expand=_tokens,
    )
)
