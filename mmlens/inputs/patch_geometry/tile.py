"""Places for models that see a picture cut into tiles, each of which is an entry of the vision tower's batch axis."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

from mmlens.core.errors import InputError
from mmlens.core.names import Part
from mmlens.declarations.structure import Config
from mmlens.inputs.patch_geometry.frame import Frame
from mmlens.inputs.patch_geometry.rows import Places, RowGrid, Sizes
from mmlens.inputs.patch_geometry.tile_raster import TileRaster

PARTS: tuple[Part, ...] = ("vision", "projector", "language")


def _canvas(processor: Any | None, size: tuple[int, int], tile: tuple[int, int]) -> tuple[int, int]:
    """(rows, columns) of tiles that an image processor cuts a picture into, by its own rule."""
    rule = getattr(sys.modules.get(type(processor).__module__), "get_optimal_tiled_canvas", None)
    if processor is None or rule is None or processor.max_patches <= 1:
        return 1, 1
    columns, rows = rule(size, tile, processor.min_patches, processor.max_patches)
    return rows, columns


def _cuts(
    processor: Any | None, sizes: list[tuple[int, int]], tile: tuple[int, int], entries: int, sample: int
) -> list[tuple[int, int]]:
    """(rows, columns) of tiles of each picture of a sample, which together take so many entries.

    Raises:
        InputError: if they do not add up.
    """
    cuts = [_canvas(processor, size, tile) for size in sizes]
    if sum(map(tile_entries, cuts)) == entries:
        return cuts
    if len(sizes) == entries:
        return [(1, 1)] * entries
    raise InputError(
        f"The image tokens of sample {sample} are those of {entries} tiles, but its pictures, of (height, width) "
        f"{', '.join(map(str, sizes))}, are cut into {' + '.join(str(tile_entries(cut)) for cut in cuts)}; pass the pictures "
        "that the tokens were made from."
    )


def tile_entries(tiles: tuple[int, int]) -> int:
    """How many entries a picture takes that is cut into so many tiles: its whole comes with them if it is cut at all."""
    count = tiles[0] * tiles[1]
    return count if count == 1 else count + 1


@dataclass(frozen=True)
class TileTower:
    """What the vision tower makes of a tile.

    Attributes:
        tile: (height, width) of a tile in pixels.
        side: of a patch in pixels.
        merge: side of the blocks of patches that the projector makes one row of.
        class_rows: rows before the patches; they are not handed on.
    """

    tile: tuple[int, int]
    side: int
    merge: int
    class_rows: int = 0

    @property
    def patches(self) -> tuple[int, int]:
        """(rows, columns) of patches in a tile."""
        return self.tile[0] // self.side, self.tile[1] // self.side

    @property
    def blocks(self) -> tuple[int, int]:
        """(rows, columns) of merged rows in a tile."""
        return self.patches[0] // self.merge, self.patches[1] // self.merge

    @property
    def tokens(self) -> int:
        """How many tokens a tile takes."""
        return self.blocks[0] * self.blocks[1]


def _tower(config: Config, tensors: dict[str, Any], merge: Callable[[Config], int], class_rows: int) -> TileTower:
    *_, height, width = tensors["pixel_values"].shape
    side = config.vision_config.patch_size
    return TileTower((height, width), side if isinstance(side, int) else side[0], merge(config), class_rows)


def canvas_places(
    *, merge: Callable[[Config], int], class_rows: int = 0
) -> Callable[[Config, dict[str, Any], Sizes, Any], list[Places]]:
    """Places for InternVL and its kin: the picture is stretched to a canvas of tiles, and its whole follows them.

    The views are the whole first, then the canvas. A picture that fits one tile is not cut and has one view.

    Args:
        merge: side of the blocks of patches that the projector makes one row of, given the configuration.
        class_rows: rows of the tower before its patches; they are not handed on.
    """

    def places(config: Config, tensors: dict[str, Any], sizes: Sizes, processor: Any | None) -> list[Places]:
        tower = _tower(config, tensors, merge, class_rows)
        places = []
        first = 0
        for sample, ids in enumerate(tensors["input_ids"]):
            positions = (ids == config.image_token_id).nonzero().flatten().cpu()
            entries, rest = divmod(len(positions), tower.tokens)
            if rest:
                raise InputError(
                    f"Sample {sample} has {len(positions)} image tokens, which are not those of whole tiles "
                    f"({tower.tokens} each). Put one placeholder per picture into the text (prepare() does it for you)."
                )
            if not entries:
                continue
            if sizes is None:
                places.append(unknown_places(sample, entries))
                first += entries
                continue
            cuts = _cuts(processor, sizes[sample], tower.tile, entries, sample)
            for image, (size, tiles) in enumerate(zip(sizes[sample], cuts, strict=True)):
                count = tile_entries(tiles)
                tokens, positions = positions[: count * tower.tokens], positions[count * tower.tokens :]
                views = list(_views(tower, size, tiles, first, sample, tokens))
                grids: dict[Part, RowGrid | tuple[RowGrid, ...]] = {
                    part: tuple(view[part] for view in views) for part in PARTS
                }
                places.append(Places(sample, image, size, grids, {}))
                first += count
        return places

    return places


def unknown_places(sample: int, entries: int, image: int = 0) -> Places:
    """The pictures of a sample that was given as tensors, or one of them."""
    why = (
        f"the batch was made of tensors, which do not say how the {entries} tiles of sample {sample} lie in its "
        "pictures; use prepare(text, images=...)"
    )
    return Places(sample, image, (0, 0), {}, dict.fromkeys(PARTS, why))


def _views(
    tower: TileTower, size: tuple[int, int], tiles: tuple[int, int], first: int, sample: int, positions: torch.Tensor
) -> Iterator[dict[Part, RowGrid]]:
    """The grids of one picture: of its whole, and of the canvas if it is cut.

    Args:
        tower: what the vision tower makes of a tile.
        size: (height, width) of the picture.
        tiles: (rows, columns) of tiles.
        first: its first entry of the vision tower's batch axis.
        sample: the sample that it is in.
        positions: its image tokens.
    """
    last = tile_entries(tiles) - 1
    yield view_grids(tower, size, (1, 1), first, sample, positions, last)
    if last:
        yield view_grids(tower, size, tiles, first, sample, positions, 0)


def view_grids(
    tower: TileTower,
    size: tuple[int, int],
    tiles: tuple[int, int],
    first: int,
    sample: int,
    positions: torch.Tensor,
    start: int,
) -> dict[Part, RowGrid]:
    """The grids of one view, whose tiles start at an entry counted from the picture's first; see `_views`."""
    patches, blocks = (TileRaster(tiles, tower.tile, side) for side in (tower.side, tower.side * tower.merge))
    frame = Frame(*size, (patches.size[0] / size[0], patches.size[1] / size[1]))

    def grid(raster: TileRaster) -> RowGrid:
        where = first + start if tiles == (1, 1) else first + start + raster.numbers
        return RowGrid(where, raster.rows, frame.to_original(raster.boxes), raster.cells, raster.shape)

    vision, projector = grid(patches), grid(blocks)
    return {
        "vision": replace(vision, rows=vision.rows + tower.class_rows),
        "projector": projector,
        "language": replace(
            projector, index=sample, rows=positions[(start + blocks.numbers) * tower.tokens + blocks.rows]
        ),
    }


def canvas_tokens(*, merge: Callable[[Config], int]) -> Callable[[Config, dict[str, Any]], list[int]]:
    """How many image tokens each picture takes, for `Family.expand`; see `canvas_places`."""

    def expand(config: Config, tensors: dict[str, Any]) -> list[int]:
        tokens = _tower(config, tensors, merge, 0).tokens
        return [int(count) * tokens for count in tensors["num_patches"]]

    return expand
