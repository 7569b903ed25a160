"""Places of towers whose stages are maps of different sizes: the projector's rows alone stand for squares of the picture."""

from typing import Any

import torch

from mmlens.core.names import Part
from mmlens.declarations.structure import Config
from mmlens.inputs.patch_geometry.grid import Raster, raster_places
from mmlens.inputs.patch_geometry.rows import Places, Sizes, cells_of


def staged_places(
    config: Config,
    tensors: dict[str, Any],
    sizes: Sizes,
    processor: Any | None,
    *,
    shape: tuple[int, int],
    squares: torch.Tensor,
    stand_for: str,
) -> list[Places]:
    """One grid per picture, in the projector and in the language model.

    Args:
        config, tensors, sizes, processor: as every family's `places` is given.
        shape: (rows, columns) of the rows that the projector hands on.
        squares: their boxes `[n, 4]` in pixels that the tower receives.
        stand_for: what these rows stand for, for the message about rows of the tower.
    """
    cells = cells_of(*shape)
    raster = Raster(torch.arange(len(cells)), squares, cells, shape)
    why = (
        "the tower's stages are maps of different sizes, and its convolutions mix neighbours; ask for part='projector' or "
        f"'language', whose rows stand for {stand_for}"
    )
    rasters: dict[Part, Raster] = {"projector": raster, "language": raster}
    return raster_places(config, tensors, sizes, processor, rasters, {"vision": why}, tokens=len(cells))
