"""Places of towers whose stages are maps of different sizes: only the rows handed on stand for squares of the picture."""

from typing import Any

import torch

from mmlens.core.names import Part
from mmlens.declarations.structure import Config
from mmlens.inputs.patch_geometry.frame import picture_frame
from mmlens.inputs.patch_geometry.rows import Grid, Places, Sizes, cells_of, owners_of, size_of


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
    pixels = tensors["pixel_values"]
    why = (
        "the tower's stages are maps of different sizes, and its convolutions mix neighbours; ask for part='projector' or "
        f"'language', whose rows stand for {stand_for}"
    )
    found = []
    for number, (sample, image, positions) in enumerate(
        owners_of(tensors, config.image_token_id, [len(cells)] * len(pixels))
    ):
        frame = picture_frame(processor, size_of(sizes, sample, image), tuple(pixels.shape[-2:]))
        boxes = frame.to_original(squares)
        grids: dict[Part, Grid | tuple[Grid, ...]] = {
            "projector": Grid(number, torch.arange(len(cells)), boxes, cells, shape),
            "language": Grid(sample, positions, boxes, cells, shape),
        }
        found.append(Places(sample, image, (frame.height, frame.width), grids, {"vision": why}))
    return found
