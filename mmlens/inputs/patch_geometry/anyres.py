"""Places for models that see a picture twice: squeezed into one tile, and fitted into a canvas that is cut into tiles.

LLaVA-NeXT chooses the canvas among a few resolutions, fits the picture into it with bars on two sides, cuts it into
tiles of the size that the tower knows, and puts the squeezed picture in front of them. After the projector the tiles
are put together again, whole rows or columns of bars are cut off, and each row ends with a newline token.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from transformers.image_processing_utils import select_best_resolution

from mmlens.core.errors import InputError
from mmlens.core.names import Part
from mmlens.declarations.structure import Config
from mmlens.inputs.patch_geometry.frame import Frame
from mmlens.inputs.patch_geometry.rows import Places, RowGrid, Sizes, boxes_of, cells_of, owners_of
from mmlens.inputs.patch_geometry.tile_raster import TileRaster


@dataclass(frozen=True)
class _Canvas:
    """The canvas of tiles that a picture is fitted into.

    Attributes:
        frame: from the picture's pixels to those of the canvas.
        tiles: (rows, columns) of tiles on it.
        bars: (rows, columns) of cells that are cut off on each side.
        cells: (rows, columns) of cells that remain.
        shape: (rows, columns) of tokens that these give.
    """

    frame: Frame
    tiles: tuple[int, int]
    bars: tuple[int, int]
    cells: tuple[int, int]
    shape: tuple[int, int]


@dataclass(frozen=True)
class _View:
    """How the model sees one picture.

    Attributes:
        size: (height, width) of the picture in pixels.
        whole: from its pixels to those of the squeezed picture.
        canvas: None where there is only the squeezed picture.
    """

    size: tuple[int, int]
    whole: Frame
    canvas: _Canvas | None

    @property
    def entries(self) -> int:
        """How many entries of the vision tower's batch axis it takes."""
        return 1 + (math.prod(self.canvas.tiles) if self.canvas else 0)

    def tokens(self, cells: int) -> int:
        """How many tokens it takes, if a tile has so many cells; each row of tokens ends with a newline."""
        rows, columns = self.canvas.shape if self.canvas else (1, 0)
        return cells + rows * (columns + 1)


def _fitted(size: tuple[int, int], canvas: tuple[int, int]) -> Frame:
    """The frame of a picture that is fitted into a canvas, in its middle."""
    factor = min(canvas[0] / size[0], canvas[1] / size[1])
    new = [min(math.ceil(side * factor), limit) for side, limit in zip(size, canvas, strict=True)]
    bars = [(limit - side) // 2 for side, limit in zip(new, canvas, strict=True)]
    return Frame(*size, (new[0] / size[0], new[1] / size[1]), (-float(bars[0]), -float(bars[1])))


def _cut(size: tuple[int, int], cells: tuple[int, int]) -> tuple[int, int]:
    """(rows, columns) of cells that are cut off at each side of a canvas, as they hold nothing but bars."""
    (height, width), (rows, columns) = size, cells
    if width / height > columns / rows:
        return (rows - int(round(height * (columns / width), 7))) // 2, 0
    return 0, (columns - int(round(width * (rows / height), 7))) // 2


def _squared(size: tuple[int, int], side: int) -> Frame:
    """The frame of a picture that is made a square with bars and then resized."""
    longest = max(size)
    scale = side / longest
    bars = [float((longest - length) // 2) * scale for length in size]
    return Frame(*size, (scale, scale), (-bars[0], -bars[1]))


def _view(config: Config, size: tuple[int, int], *, cut: bool, limit: int | None) -> _View:
    """How the model sees a picture.

    Args:
        config: the model's configuration.
        size: (height, width) of the picture.
        cut: whether the picture is cut into tiles; else it is only squeezed.
        limit: number of tiles that have as many cells as the canvas may give tokens.
    """
    side = config.vision_config.image_size
    per_tile = side // config.vision_config.patch_size
    if not cut:
        return _View(size, _squared(size, side), None)
    canvas = select_best_resolution(size, config.image_grid_pinpoints)
    tiles = (canvas[0] // side, canvas[1] // side)
    cells = (tiles[0] * per_tile, tiles[1] * per_tile)
    bars = _cut(size, cells)
    shown_cells = (cells[0] - 2 * bars[0], cells[1] - 2 * bars[1])
    shape = shown_cells
    if limit is not None:
        ratio = math.sqrt(shown_cells[0] * shown_cells[1] / (limit * per_tile**2))
        if ratio > 1.1:
            shape = (int(shown_cells[0] // ratio), int(shown_cells[1] // ratio))
    overview = Frame(*size, (side / size[0], side / size[1]))
    return _View(size, overview, _Canvas(_fitted(size, canvas), tiles, bars, shown_cells, shape))


def _pictures(config: Config, tensors: dict[str, Any], limit_of: Callable[[Config], int] | None) -> list[_View]:
    """How the model sees each picture of a batch.

    Raises:
        InputError: if the tensors do not say how large the pictures were.
    """
    sizes = tensors.get("image_sizes")
    if sizes is None:
        raise InputError(
            "pixel_values came without image_sizes, the (height, width) of each picture, which say how it was cut into "
            "tiles; pass what the image processor returns as a whole, or use prepare(text, images=...)."
        )
    together = tensors.get("batch_num_images")
    counts = [1] * len(sizes) if together is None else [int(n) for n in together]
    if sum(counts) != len(sizes):
        raise InputError(
            f"batch_num_images counts {sum(counts)} pictures, and image_sizes has {len(sizes)}; pass what the image processor "
            "returns as a whole, or use prepare(text, images=...)."
        )
    cut = [count == 1 for count in counts for _ in range(count)]
    limit = None if limit_of is None else limit_of(config)
    return [
        _view(config, (int(height), int(width)), cut=alone, limit=limit)
        for (height, width), alone in zip(torch.as_tensor(sizes).tolist(), cut, strict=True)
    ]


def interpolated_from(length: int, new: int) -> torch.Tensor:
    """First and last of the cells that each of `new` cells is (bilinearly) interpolated from, `[new 2]`."""
    if new == length:
        return torch.arange(length)[:, None].expand(-1, 2)
    # in float32, as the model itself weighs them: a weight is zero here exactly where it is there
    centre = ((torch.arange(new, dtype=torch.float32) + 0.5) * (length / new) - 0.5).clamp(min=0)
    return torch.stack([centre.floor(), centre.ceil().clamp(max=length - 1)], dim=1).long()


def _token_boxes(canvas: _Canvas, raster: TileRaster) -> torch.Tensor:
    """Boxes `[n, 4]` on the canvas of the tokens: all cells that each is made of."""
    rows = raster.start(interpolated_from(canvas.cells[0], canvas.shape[0]) + canvas.bars[0], 0)
    columns = raster.start(interpolated_from(canvas.cells[1], canvas.shape[1]) + canvas.bars[1], 1)
    row, column = cells_of(*canvas.shape).unbind(1)
    ends = (columns[column, 1] + raster.side, rows[row, 1] + raster.side)
    return torch.stack([columns[column, 0], rows[row, 0], *ends], dim=1)


def _views(
    config: Config, view: _View, first: int, sample: int, positions: torch.Tensor, extra: int
) -> Iterator[dict[Part, RowGrid]]:
    """The grids of one picture: of the squeezed one, and of the canvas.

    Args:
        config: the model's configuration.
        view: how the model sees it.
        first: its first entry of the vision tower's batch axis.
        sample: the sample that it is in.
        positions: its image tokens.
        extra: rows of the tower before its patches.
    """
    side = config.vision_config.patch_size
    per_tile = config.vision_config.image_size // side
    within = (per_tile, per_tile)
    cells = cells_of(*within)
    rows = torch.arange(len(cells))
    boxes = view.whole.to_original(boxes_of(cells, side))
    yield {
        "vision": RowGrid(first, rows + extra, boxes, cells, within),
        "projector": RowGrid(first, rows, boxes, cells, within),
        "language": RowGrid(sample, positions[: len(cells)], boxes, cells, within),
    }
    canvas = view.canvas
    if canvas is None:
        return
    length = config.vision_config.image_size
    raster = TileRaster(canvas.tiles, (length, length), side)
    entries = first + 1 + raster.numbers
    boxes = canvas.frame.to_original(raster.boxes)
    tokens = positions[per_tile**2 :].view(canvas.shape[0], canvas.shape[1] + 1)[:, :-1].flatten()
    token_boxes = canvas.frame.to_original(_token_boxes(canvas, raster))
    yield {
        "vision": RowGrid(entries, raster.rows + extra, boxes, raster.cells, raster.shape),
        "projector": RowGrid(entries, raster.rows, boxes, raster.cells, raster.shape),
        "language": RowGrid(sample, tokens, token_boxes, cells_of(*canvas.shape), canvas.shape),
    }


def anyres_places(
    *, class_rows: Callable[[Config], int], limit: Callable[[Config], int] | None = None
) -> Callable[..., list[Places]]:
    """Places for LLaVA-NeXT and its kin: two views, the squeezed picture and the canvas.

    Rows of the tower whose tile shows nothing but bars have boxes outside the picture. Newline tokens have no place.

    Args:
        class_rows: rows of the tower before its patches, given the configuration; they are not handed on.
        limit: given the configuration, how many tiles have as many cells as the canvas may give tokens: larger ones are
            interpolated, and a token then stands for all cells that it is interpolated from.
    """

    def places(config: Config, tensors: dict[str, Any], sizes: Sizes, processor: Any | None) -> list[Places]:
        pictures = _pictures(config, tensors, limit)
        per_tile = (config.vision_config.image_size // config.vision_config.patch_size) ** 2
        owners = owners_of(tensors, config.image_token_id, [picture.tokens(per_tile) for picture in pictures])
        places = []
        first = 0
        for picture, (sample, image, positions) in zip(pictures, owners, strict=True):
            views = list(_views(config, picture, first, sample, positions, class_rows(config)))
            parts: tuple[Part, ...] = ("vision", "projector", "language")
            grids: dict[Part, RowGrid | tuple[RowGrid, ...]] = {
                part: tuple(view[part] for view in views) for part in parts
            }
            places.append(Places(sample, image, picture.size, grids, {}))
            first += picture.entries
        return places

    return places


def anyres_tokens(*, limit: Callable[[Config], int] | None = None) -> Callable[[Config, dict[str, Any]], list[int]]:
    """How many image tokens each picture takes, for `Family.expand`; see `anyres_places`."""

    def expand(config: Config, tensors: dict[str, Any]) -> list[int]:
        per_tile = (config.vision_config.image_size // config.vision_config.patch_size) ** 2
        return [view.tokens(per_tile) for view in _pictures(config, tensors, limit)]

    return expand
