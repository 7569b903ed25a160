"""Idefics3 and SmolVLM: a SigLIP-like tower, pixel shuffle, and pictures cut into tiles that marker tokens announce.

A picture is cut into rows and columns of tiles, each an entry of the vision tower's batch axis; the whole picture,
squeezed into one tile, comes after them. In the text every tile is announced by a boundary token and a marker, a line
break ends a row of tiles, and a boundary token closes the picture. Pixel shuffle lays blocks of patches side by side
before one linear layer, so that a token stands for a block.

Sources: Laurençon et al., Building and better understanding vision-language models, 2024
(https://arxiv.org/abs/2408.12637); Marafioti et al., SmolVLM, 2025 (https://arxiv.org/abs/2504.05299).
"""

from collections.abc import Iterator
from typing import Any, TypeAlias

import torch

from mmlens.architectures.families.blocks import llama_language, vision_tower
from mmlens.architectures.families.projectors import projector_at
from mmlens.core.errors import InputError
from mmlens.core.names import Part
from mmlens.declarations.family import Family
from mmlens.declarations.registry import register_family
from mmlens.declarations.structure import Config
from mmlens.inputs.patch_geometry import Frame, Places, RowGrid, Sizes, size_of
from mmlens.inputs.patch_geometry.tile_raster import TileRaster

#: The tokens of one picture: rows of tiles, each tile's positions; the last row is the whole picture alone.
_Tiles: TypeAlias = list[list[torch.Tensor]]

_BOUNDARY, _WHOLE = "<fake_token_around_image>", "<global-img>"


def _pictures(ids: torch.Tensor, image_token: int, per_tile: int, sample: int) -> Iterator[_Tiles]:
    """The pictures of a sample, read from the tokens between the tiles.

    Raises:
        InputError: if the image tokens are not those of whole pictures.
    """
    positions = (ids == image_token).nonzero().flatten()
    if not len(positions):
        return
    tiles = positions.view(-1, per_tile) if len(positions) % per_tile == 0 else positions[None]
    complete = bool((tiles[:, -1] - tiles[:, 0] == per_tile - 1).all())
    if not complete or int(positions[-1]) + 1 == len(ids):
        raise InputError(
            f"The image tokens of sample {sample} are not those of whole tiles of {per_tile} tokens with a boundary token "
            "behind the last; pass the ids as the processor made them."
        )
    picture: _Tiles = [[]]
    for tile, next_tile in zip(tiles, [*tiles[1:], None], strict=True):
        picture[-1].append(tile)
        behind = int(tile[-1]) + 1
        boundary = ids[int(positions[-1]) + 1]
        if next_tile is None:
            yield picture
        elif ids[behind] != boundary:
            picture.append([])  # a line break: the next row of tiles, or the whole picture
        elif (ids[behind + 1 : int(next_tile[0])] == boundary).any():
            yield picture
            picture = [[]]


def _places(config: Config, tensors: dict[str, Any], sizes: Sizes, processor: Any | None) -> list[Places]:
    """Two views of each picture that is cut, in every part: the whole, and the tiles put together."""
    height, width = tensors["pixel_values"].shape[-2:]
    tile = (height, width)
    side, factor = config.vision_config.patch_size, config.scale_factor
    patches = (tile[0] // side, tile[1] // side)
    blocks = (patches[0] // factor, patches[1] // factor)
    places = []
    first = 0
    for sample, ids in enumerate(tensors["input_ids"].cpu()):
        for image, tokens in enumerate(_pictures(ids, config.image_token_id, blocks[0] * blocks[1], sample)):
            cut = (len(tokens) - 1, len(tokens[0]) if len(tokens) > 1 else 0)
            count = cut[0] * cut[1]
            size: tuple[int, int] = size_of(sizes, sample, image) or (
                max(cut[0], 1) * tile[0],
                max(cut[1], 1) * tile[1],
            )
            in_order = torch.stack([positions for row in tokens for positions in row])
            sides: tuple[tuple[Part, int], ...] = (("vision", side), ("projector", side * factor))
            views: dict[Part, list[RowGrid]] = {"vision": [], "projector": [], "language": []}
            for layout, start in (((1, 1), count), (cut, 0)) if count else (((1, 1), 0),):
                frame = Frame(*size, (layout[0] * tile[0] / size[0], layout[1] * tile[1] / size[1]))
                for part, length in sides:
                    raster = TileRaster(layout, tile, length)
                    boxes = frame.to_original(raster.boxes)
                    index = first + start + (raster.numbers if layout != (1, 1) else 0)
                    views[part].append(RowGrid(index, raster.rows, boxes, raster.cells, raster.shape))
                rows = in_order[start + raster.numbers, raster.rows]
                views["language"].append(RowGrid(sample, rows, boxes, raster.cells, raster.shape))
            places.append(Places(sample, image, size, {part: tuple(grids) for part, grids in views.items()}, {}))
            first += count + 1
    return places


def _expand(config: Config, tensors: dict[str, Any]) -> list[str]:
    """The text that stands for each picture: its tiles, announced by their markers, and the whole."""
    side = tensors["pixel_values"].shape[-1] // config.vision_config.patch_size // config.scale_factor
    image = "<image>" * side**2
    texts = []
    for rows, columns in zip(_flat(tensors["rows"]), _flat(tensors["cols"]), strict=True):
        lines = (
            "".join(f"{_BOUNDARY}<row_{row + 1}_col_{column + 1}>{image}" for column in range(columns)) + "\n"
            for row in range(rows)
        )
        texts.append("".join(lines) + ("\n" if rows else "") + f"{_BOUNDARY}{_WHOLE}{image}{_BOUNDARY}")
    return texts


def _flat(numbers: Any) -> list[int]:
    """Numbers per picture, whatever samples they are grouped by."""
    return [int(number) for row in numbers for number in row]


IDEFICS3 = register_family(
    Family(
        name="idefics3",
        classes=("Idefics3ForConditionalGeneration", "SmolVLMForConditionalGeneration"),
        vision=vision_tower("model.vision_model.encoder.layers"),
        projector=projector_at("model.connector", "image_hidden_states", receives_rows="vision"),
        language=llama_language("model.text_model"),
        places=_places,
        placeholder="<image>",
        nested_pictures=True,
        expand=_expand,
        # the numbers of rows and columns, which the text needs and the model does not take
        image_options=lambda config: {"return_row_col_info": True},
        for_counting=("rows", "cols"),
    )
)
