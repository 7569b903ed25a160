"""Places for models whose text says how a picture was cut into tiles: tokens stand around it and between its tiles."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from mmlens.core.errors import InputError
from mmlens.core.names import Part
from mmlens.declarations.structure import Config
from mmlens.inputs.patch_geometry.frame import Frame
from mmlens.inputs.patch_geometry.rows import Places, RowGrid, Sizes, size_of
from mmlens.inputs.patch_geometry.tile import PARTS, TileTower, tile_entries
from mmlens.inputs.patch_geometry.tile_raster import TileRaster


def stretched(processor: Any | None, size: tuple[int, int], canvas: tuple[int, int]) -> Frame:
    """The frame of a picture that is stretched to a canvas."""
    return Frame(*size, (canvas[0] / size[0], canvas[1] / size[1]))


class _Tower(TileTower):
    """A vision tower of tiles that may stand side by side in a picture."""

    def view(
        self, frame: Frame, tiles: tuple[int, int], start: int, first: int, sample: int, positions: torch.Tensor
    ) -> dict[Part, RowGrid]:
        """The grids of one view of a picture.

        Args:
            frame: from the picture's pixels to those of the tiles put together.
            tiles: (rows, columns) of tiles.
            start: which of the picture's entries holds the first tile.
            first: the picture's first entry of the tower's batch axis.
            sample: the sample that it is in.
            positions: the picture's image tokens, entry by entry.
        """

        patches, squares = (TileRaster(tiles, self.tile, side) for side in (self.side, self.side * self.merge))

        def grid(raster: TileRaster) -> RowGrid:
            where = first + start if tiles == (1, 1) else first + start + raster.numbers
            return RowGrid(where, raster.rows, frame.to_original(raster.boxes), raster.cells, raster.shape)

        projector = grid(squares)
        tokens = positions[(start + squares.numbers) * self.tokens + squares.rows]
        return {
            "vision": grid(patches),
            "projector": projector,
            "language": replace(projector, index=sample, rows=tokens),
        }


def _spans(ids: torch.Tensor, marks: tuple[int, int], image_token: int) -> list[tuple[int, int]]:
    """Where each picture of a sample begins and ends in the text; marks without image tokens between them are text."""
    spans = []
    begin = None
    for position, token in enumerate(ids.tolist()):
        if token == marks[0]:
            begin = position
        elif token == marks[1] and begin is not None:
            if (ids[begin:position] == image_token).any():
                spans.append((begin, position))
            begin = None
    return spans


def _require_tokens(positions: torch.Tensor, cut: tuple[int, int], tower: _Tower, picture: str) -> None:
    """Check that a picture has the tokens of its tiles."""
    count = tile_entries(cut) * tower.tokens
    if len(positions) != count:
        raise InputError(
            f"{picture} is cut into {cut[0]} x {cut[1]} tiles, which take {count} image tokens, but the text has "
            f"{len(positions)} for it; use prepare(text, images=...)."
        )


def marked_places(
    *,
    marks: Callable[[Config], tuple[int, int]],
    tiles: Callable[[Config, list[int]], tuple[int, int]],
    merge: Callable[[Config], int],
    fit: Callable[[Any, tuple[int, int], tuple[int, int]], Frame] = stretched,
    whole_first: bool,
    extra_rows: int = 0,
) -> Callable[..., list[Places]]:
    """Places for models that see a picture cut into tiles, and as a whole beside them if there are several.

    The views are the whole first, then the canvas of tiles. A picture of one tile has that view alone.

    Args:
        marks: the tokens that begin and end a picture, given the configuration.
        tiles: (rows, columns) of tiles, given the configuration and the tokens that stand between a picture's tiles.
        merge: side of the squares of patches that the projector makes one row of, given the configuration.
        fit: how a picture is laid on its canvas of tiles, given `(image processor, size, size of the canvas)`.
        whole_first: whether the whole comes before the tiles or behind them.
        extra_rows: rows of the tower behind a tile's patches, which have no place.
    """

    def places(config: Config, tensors: dict[str, Any], sizes: Sizes, processor: Any | None) -> list[Places]:
        pixels = tensors["pixel_values"]
        side = config.vision_config.patch_size
        *_, height, width = pixels.shape
        tower = _Tower((height, width), side, merge(config))
        lengths: dict[Part, int] = {"vision": math.prod(tower.patches) + extra_rows}
        places = []
        first = 0
        for sample, ids in enumerate(tensors["input_ids"].cpu()):
            for image, (begin, end) in enumerate(_spans(ids, marks(config), config.image_token_id)):
                inside = ids[begin + 1 : end]
                is_patch = inside == config.image_token_id
                positions = is_patch.nonzero().flatten() + begin + 1
                cut = tiles(config, inside[~is_patch].tolist())
                entries = tile_entries(cut)
                _require_tokens(positions, cut, tower, f"Picture {image} of sample {sample}")
                canvas = (cut[0] * tower.tile[0], cut[1] * tower.tile[1])
                size = size_of(sizes, sample, image) or canvas
                start = 1 if whole_first and entries > 1 else 0
                views = [tower.view(fit(processor, size, canvas), cut, start, first, sample, positions)]
                if entries > 1:
                    overview = stretched(processor, size, tower.tile)
                    start = 0 if whole_first else entries - 1
                    views.insert(0, tower.view(overview, (1, 1), start, first, sample, positions))
                grids: dict[Part, RowGrid | tuple[RowGrid, ...]] = {
                    part: tuple(v[part] for v in views) for part in PARTS
                }
                places.append(Places(sample, image, size, grids, {}, lengths))
                first += entries
        if first != len(pixels):
            raise InputError(
                f"The text marks pictures of {first} tiles, but {len(pixels)} were given; use prepare(text, images=...)."
            )
        return places

    return places
