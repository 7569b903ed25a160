"""Places of rows that two strided convolutions make of a raster of patches, behind a convolution of the tower's own."""

import torch

from mmlens.inputs.patch_geometry.grid import Raster
from mmlens.inputs.patch_geometry.rows import cells_of

#: Patches per row along each side, as two convolutions step by two.
_STEP = 4
#: How many patches a row is made of on either side of the one that it stands on: the neck's convolution and the first of
#: the two add a neighbour each, the second one adds two.
_REACH = 4


def convolved(shape: tuple[int, int], side: int) -> Raster:
    """The rows that the convolutions give, each with the box of all patches that it is made of; neighbours overlap.

    Args:
        shape: (rows, columns) of patches.
        side: of a patch, in pixels that the tower receives.
    """
    steps = (-(-shape[0] // _STEP), -(-shape[1] // _STEP))
    cells = cells_of(*steps)
    first = (cells * _STEP - _REACH).clamp(min=0)
    last = torch.minimum(cells * _STEP + _REACH + 1, torch.tensor(shape))
    boxes = torch.cat([first.flip(-1), last.flip(-1)], dim=-1) * side
    return Raster(torch.arange(len(cells)), boxes, cells, steps)
