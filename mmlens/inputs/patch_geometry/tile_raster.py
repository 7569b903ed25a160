"""The raster of cells (patches, or squares of patches) over a picture that is cut into tiles."""

from dataclasses import dataclass

import torch

from mmlens.inputs.patch_geometry.rows import cells_of


@dataclass(frozen=True)
class TileRaster:
    """Cells over a picture that is cut into tiles, each of which has whole cells from its own corner on.

    Where a tile is no multiple of a cell (384 pixels hold 27 patches of 14), its last pixels lie in no cell, and the next
    tile's cells begin behind them.

    Attributes:
        tiles: (rows, columns) of tiles.
        tile: (height, width) of a tile in pixels.
        side: of a cell in pixels.

    Example:
        >>> raster = TileRaster((1, 2), (384, 384), 14)
        >>> raster.shape, raster.boxes[27].tolist(), raster.rows[27].item()
        ((27, 54), [384, 0, 398, 14], 0)
    """

    tiles: tuple[int, int]
    tile: tuple[int, int]
    side: int

    @property
    def within(self) -> tuple[int, int]:
        """(rows, columns) of cells in a tile."""
        return self.tile[0] // self.side, self.tile[1] // self.side

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns) of cells in all tiles together."""
        return self.tiles[0] * self.within[0], self.tiles[1] * self.within[1]

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of all tiles together, in pixels."""
        return self.tiles[0] * self.tile[0], self.tiles[1] * self.tile[1]

    @property
    def cells(self) -> torch.Tensor:
        """(row, column) of every cell in raster order, `[n 2]`."""
        return cells_of(*self.shape)

    @property
    def numbers(self) -> torch.Tensor:
        """The tile that each cell lies in, `[n]`; tiles are counted in raster order."""
        tile = self.cells // torch.tensor(self.within)
        return tile[:, 0] * self.tiles[1] + tile[:, 1]

    @property
    def rows(self) -> torch.Tensor:
        """The row of each cell among those of its tile, `[n]`."""
        inner = self.cells % torch.tensor(self.within)
        return inner[:, 0] * self.within[1] + inner[:, 1]

    @property
    def boxes(self) -> torch.Tensor:
        """The pixel box of each cell in the tiles put together, `[n 4]`."""
        row, column = self.cells.unbind(1)
        top_left = torch.stack([self.start(column, 1), self.start(row, 0)], dim=1)
        return torch.cat([top_left, top_left + self.side], dim=1)

    def start(self, index: torch.Tensor, axis: int) -> torch.Tensor:
        """The first pixel of rows (axis 0) or columns (axis 1) of cells."""
        return index // self.within[axis] * self.tile[axis] + index % self.within[axis] * self.side
