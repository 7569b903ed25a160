"""Where patches lie, as the viewer needs them: a box each, in pixels of the picture."""

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image

from mmlens.analysis.heatmap import HeatMap
from mmlens.core.errors import InputError


def boxes_of_map(heat: HeatMap) -> Float[np.ndarray, "patch 4"]:
    """A box for each value of a heat map, row by row."""
    sides = []
    for axis in (0, 1):
        first, last, count = heat.box[1 - axis], heat.box[3 - axis], heat.values.shape[axis]
        if heat.centres is None:
            sides.append(np.linspace(first, last, count + 1))
        else:
            centres = heat.centres[axis].double().numpy()
            sides.append(np.concatenate([[first], (centres[1:] + centres[:-1]) / 2, [last]]))
    (down, across) = sides
    top, left = np.meshgrid(down[:-1], across[:-1], indexing="ij")
    bottom, right = np.meshgrid(down[1:], across[1:], indexing="ij")
    return np.stack([left, top, right, bottom], -1).reshape(-1, 4)


def require_picture_of(picture: Image.Image, size: tuple[int, int]) -> None:
    """Refuse a picture of another size than the one that boxes are of.

    Raises:
        InputError: says which it is.
    """
    if (picture.height, picture.width) != size:
        raise InputError(
            f"The picture is [height={picture.height} width={picture.width}], and the result is of one of [height={size[0]} "
            f"width={size[1]}]; pass the picture that was looked at."
        )


def numbers(values: torch.Tensor) -> Float[np.ndarray, "..."]:
    """A tensor for a pack."""
    return values.detach().float().cpu().numpy()
