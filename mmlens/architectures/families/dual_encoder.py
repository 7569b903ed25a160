"""What dual encoders share: towers of CLIP's blocks, and pictures that are samples of their own."""

from collections.abc import Callable
from typing import Any

import torch

from mmlens.architectures.families.blocks import CLIP_BLOCK
from mmlens.architectures.families.reading import last_block, text_config, vision_config
from mmlens.core.names import Part
from mmlens.declarations.family import Language, Vision
from mmlens.declarations.structure import Config, Norm, Stack
from mmlens.inputs.patch_geometry import Places, Raster, Sizes, raster_places
from mmlens.inputs.patch_geometry.grid import patches_of

#: Why texts are padded on the right.
LEFT = "the text tower of a dual encoder counts positions from the first one, padding included."
#: Why rows outside the tower have no place in the picture.
PLACELESS: dict[Part, str] = {
    "projector": "the picture's embedding sums up all patches; ask for part='vision', whose rows are patches",
    "language": "a dual encoder's text tower reads no picture; ask for part='vision', whose rows are patches",
}


def clip_tower(*, norm_pooled: bool) -> Vision:
    """The vision tower of a dual encoder, with its final norm.

    Args:
        norm_pooled: the norm sees the class row alone.
    """
    return Vision(
        Stack("vision_model.encoder.layers", CLIP_BLOCK, config=vision_config),
        read=last_block,
        norm=Norm("vision_model.post_layernorm", centred=True),
        norm_pooled=norm_pooled,
    )


def text_tower(head: str, *, looks_ahead: bool) -> Language:
    """The text tower of a dual encoder.

    Args:
        head: the linear that makes the text's embedding of one row.
        looks_ahead: tokens see later ones too.
    """
    return Language(
        stack=Stack("text_model.encoder.layers", CLIP_BLOCK, config=text_config),
        embed="text_model.embeddings.token_embedding",
        norm=Norm("text_model.final_layer_norm", centred=True),
        head=head,
        merges=False,
        looks_ahead=looks_ahead,
    )


def no_pictures(config: Config, tensors: Any) -> torch.Tensor:
    """Which positions of the text hold a picture: none."""
    return torch.zeros_like(tensors["input_ids"], dtype=torch.bool)


def picture_rows(class_rows: int) -> Callable[..., list[Places]]:
    """Places of pictures that are samples of their own, one each.

    Args:
        class_rows: rows before the patches.
    """

    def places(config: Config, tensors: dict[str, Any], sizes: Sizes, processor: Any | None) -> list[Places]:
        rasters: dict[Part, Raster] = {"vision": Raster.of(*patches_of(config, tensors), first=class_rows)}
        entries = [(picture, picture, 0) for picture in range(len(tensors["pixel_values"]))]
        return raster_places(config, tensors, sizes, processor, rasters, PLACELESS, entries=entries)

    return places
