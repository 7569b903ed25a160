"""Places for towers whose patches lie in raster order and are merged, pooled or shuffled into fewer rows afterwards."""

from collections.abc import Callable
from typing import Any

import torch

from mmlens.core.names import Part
from mmlens.declarations.structure import Config
from mmlens.inputs.patch_geometry.frame import Frame
from mmlens.inputs.patch_geometry.grid import Raster, patches_of, raster_places
from mmlens.inputs.patch_geometry.rows import Places, RowGrid, Sizes, boxes_of, cells_of, owners_of, size_of


def raster_grid(
    frame: Frame, shape: tuple[int, int], side: int, rows: torch.Tensor, index: int | torch.Tensor | None
) -> RowGrid:
    """The grid of rows that lie in raster order.

    Args:
        frame: from the picture's pixels to those that the tower receives.
        shape: (rows, columns) of cells.
        side: of a cell, in pixels that the tower receives.
        rows: `[n]` the row of each cell.
        index: which entry of the batch axis holds them; None if there is no such axis.
    """
    cells = cells_of(*shape)
    return RowGrid(index, rows, frame.to_original(boxes_of(cells, side)), cells, shape)


def merging_places(*, merge: Callable[[Config], int]) -> Callable[..., list[Places]]:
    """Places for towers that make one raster of patches of a picture, and hand on `merge x merge` patches as one row.

    Args:
        merge: side of the squares that are merged, in patches, given the configuration.
    """

    def places(config: Config, tensors: dict[str, Any], sizes: Sizes, processor: Any | None) -> list[Places]:
        factor = merge(config)
        shape, side = patches_of(config, tensors)
        squares = Raster.of((shape[0] // factor, shape[1] // factor), side * factor)
        rasters: dict[Part, Raster] = {"vision": Raster.of(shape, side), "projector": squares, "language": squares}
        return raster_places(config, tensors, sizes, processor, rasters, tokens=len(squares.rows))

    return places


def one_sequence_places(*, merge: Callable[[Config], int], entry: int | None) -> Callable[..., list[Places]]:
    """Places for towers that lay the patches of all pictures into one sequence, with a batch axis of one.

    `image_sizes` says how large each picture is that the tower receives.

    Args:
        merge: side of the squares that become one row behind the tower, in patches, given the configuration.
        entry: which entry of the projector's batch axis holds its rows; None if it has no such axis.
    """

    def places(config: Config, tensors: dict[str, Any], sizes: Sizes, processor: Any | None) -> list[Places]:
        side, factor = config.vision_config.patch_size, merge(config)
        targets = [(int(height), int(width)) for height, width in tensors["image_sizes"]]
        patches = [(height // side, width // side) for height, width in targets]
        squares = [(rows // factor, columns // factor) for rows, columns in patches]
        places = []
        first = first_merged = 0
        owners = owners_of(tensors, config.image_token_id, [rows * columns for rows, columns in squares])
        for number, (sample, image, positions) in enumerate(owners):
            (height, width), patch_shape, square_shape = targets[number], patches[number], squares[number]
            original = size_of(sizes, sample, image) or targets[number]
            frame = Frame(*original, (height / original[0], width / original[1]))
            rows = torch.arange(patch_shape[0] * patch_shape[1]) + first
            behind = torch.arange(len(positions)) + first_merged
            grids: dict[Part, RowGrid | tuple[RowGrid, ...]] = {
                "vision": raster_grid(frame, patch_shape, side, rows, 0),
                "projector": raster_grid(frame, square_shape, side * factor, behind, entry),
                "language": raster_grid(frame, square_shape, side * factor, positions, sample),
            }
            places.append(Places(sample, image, original, grids, {}))
            first, first_merged = first + len(rows), first_merged + len(positions)
        return places

    return places


#: Towers of that kind, whose projector merges squares and has no batch axis.
packed_merging_places = one_sequence_places(merge=lambda config: int(config.spatial_merge_size), entry=None)
