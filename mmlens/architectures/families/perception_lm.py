"""PerceptionLM: a Perception Encoder of timm's, two linears in front of a pooling, a Llama language model.

transformers builds the tower with timm, which has to be installed with torchvision beside it; nothing of either is
imported here. The tower's attention is timm's own code, so that of its six points there is `hook_z` alone; every branch
is multiplied by a scale of its own before it is added. A picture is seen as a whole on one tile, and then stretched to a
canvas of tiles. The whole comes first, also of pictures that take one tile. All pictures of a batch must take the same
number of tiles, as transformers lays them in one tensor. Blocks of patches are averaged behind the projector's linears.

Source: Cho et al., PerceptionLM: Open-Access Data and Models for Detailed Visual Understanding, 2025
(https://arxiv.org/abs/2504.13180); Bolya et al., Perception Encoder, 2025 (https://arxiv.org/abs/2504.13181).
"""

from collections.abc import Callable
from dataclasses import replace
from math import isqrt
from operator import attrgetter
from typing import Any

import torch
from torch import nn

from mmlens.architectures.families.blocks import llama_language, vision_tower
from mmlens.architectures.families.packed import PACKED_BLOCK
from mmlens.architectures.families.projectors import two_layer_projector
from mmlens.core.errors import InputError
from mmlens.core.names import Part
from mmlens.declarations.family import Family
from mmlens.declarations.registry import register_family
from mmlens.declarations.structure import Attention, Config, Mlp
from mmlens.inputs.patch_geometry import Places, RowGrid, Sizes, owners_of, size_of
from mmlens.inputs.patch_geometry.tile import PARTS, TileTower, unknown_places, view_grids

_PROJECTOR = "model.multi_modal_projector"


def _scale(name: str) -> Callable[[nn.Module], torch.Tensor | float]:
    """What a branch is multiplied by: a parameter of the block, which some checkpoints lack."""
    return lambda block: 1.0 if getattr(block, name) is None else block.get_parameter(name)


#: timm's `EvaBlock` with fused queries, keys and values and an MLP of two linears.
_BLOCK = replace(
    PACKED_BLOCK,
    attn=Attention(
        kernel=None,
        branch="attn",
        qkv="attn.qkv",
        o="attn.proj",
        scale=_scale("gamma_1"),
        heads=attrgetter("attn.num_heads"),
    ),
    mlp=replace(PACKED_BLOCK.mlp, scale=_scale("gamma_2")),
)


def _canvas(processor: Any, size: tuple[int, int], tile: int, count: int) -> tuple[int, int]:
    """(rows, columns) of the tiles that an image processor cuts a picture into, by its own rule.

    Raises:
        InputError: if they are not as many as the picture has.
    """
    where = {"img_width": size[1], "img_height": size[0], "tile_size": tile}
    rule = getattr(processor, "_fit_image_to_canvas", None)
    columns, rows = (0, 0) if rule is None else rule(**where) or processor._find_closest_aspect_ratio(**where)
    if rows * columns != count:
        raise InputError(
            f"A picture of (height, width) {size} came as {count} tiles and its whole, but the image processor "
            f"({type(processor).__name__}) cuts it into {rows} x {columns}; pass the picture that the tensors were made from."
        )
    return rows, columns


def _tower(config: Config, tensors: dict[str, Any]) -> TileTower:
    """What the tower makes of a tile, as the number of image tokens says it: the configuration may not hold its shape.

    Raises:
        InputError: if the tokens are not those of whole pictures.
    """
    pictures, entries, _, height, width = tensors["pixel_values"].shape
    tokens = int((tensors["input_ids"] == config.image_token_id).sum())
    side = isqrt(tokens // (pictures * entries))
    if side * side * pictures * entries != tokens or not tokens:
        raise InputError(
            f"{tokens} image tokens are not those of {pictures} pictures of {entries} tiles, each of which takes a square of "
            "them. Put one placeholder per picture into the text (prepare() does it for you)."
        )
    pool = int(config.projector_pooling_ratio)
    return TileTower((height, width), height // (side * pool), pool, int(config.vision_use_cls_token))


def _places(config: Config, tensors: dict[str, Any], sizes: Sizes, processor: Any | None) -> list[Places]:
    tower = _tower(config, tensors)
    entries = tensors["pixel_values"].shape[1]
    tokens_per_picture = entries * tower.tokens
    places: list[Places] = []
    for number, (sample, image, tokens) in enumerate(
        owners_of(tensors, config.image_token_id, [tokens_per_picture] * len(tensors["pixel_values"]))
    ):
        size = size_of(sizes, sample, image) or (tower.tile if entries == 1 else None)
        if size is None:
            places.append(unknown_places(sample, entries, image))
            continue
        cuts = [((1, 1), 0)]
        if entries > 1:
            cuts.append((_canvas(processor, size, tower.tile[0], entries - 1), 1))
        views = [view_grids(tower, size, tiles, number * entries, sample, tokens, start) for tiles, start in cuts]
        grids: dict[Part, RowGrid | tuple[RowGrid, ...]] = {part: tuple(view[part] for view in views) for part in PARTS}
        places.append(Places(sample, image, size, grids, {}))
    return places


PERCEPTION_LM = register_family(
    Family(
        name="perception_lm",
        classes=("PerceptionLMForConditionalGeneration",),
        vision=vision_tower("model.vision_tower.timm_model.blocks", _BLOCK, read=lambda c: [-1]),
        projector=replace(
            two_layer_projector(_PROJECTOR),
            # with the class row, which is left out behind it, so that rows are called as in the tower
            receives=("model.vision_tower.timm_model.norm", None),
            mlp=Mlp(down=f"{_PROJECTOR}.linear_2", up=f"{_PROJECTOR}.linear_1", act=f"{_PROJECTOR}.gelu"),
            mlp_rows="patches",
            mlp_rows_first=True,
            receives_rows="vision",
        ),
        language=llama_language(),
        places=_places,
        placeholder="<|image|>\n",
    )
)
