"""Places of towers that cut a picture into one raster of patches, and of Q-Formers behind them."""

from collections.abc import Callable
from typing import Any

import torch

from mmlens.core.names import Part
from mmlens.declarations.structure import Config
from mmlens.inputs.patch_geometry.frame import Frame, picture_frame
from mmlens.inputs.patch_geometry.rows import Grid, Places, Sizes, boxes_of, cells_of, owners_of, size_of


def grid_places(
    *,
    class_rows: Callable[[Config], int],
    drops_class: Callable[[Config], bool],
    frame: Callable[[Any, tuple[int, int] | None, tuple[int, int]], Frame] = picture_frame,
) -> Callable[..., list[Places]]:
    """Places for towers that cut a picture into one raster of patches, with or without class rows in front.

    Args:
        class_rows: rows before the patches, given the configuration.
        drops_class: whether these are left out of what is handed on.
        frame: how a picture's pixels come to be those that the tower receives, given `(image processor, size, size that
            the tower receives)`.
    """

    def places(config: Config, tensors: dict[str, Any], sizes: Sizes, processor: Any | None) -> list[Places]:
        pixels = tensors["pixel_values"]
        side = config.vision_config.patch_size
        height, width = pixels.shape[-2:]
        shape = (height // side, width // side)
        cells = cells_of(*shape)
        extra = class_rows(config)
        kept = 0 if drops_class(config) else extra
        found = []
        owners = owners_of(tensors, config.image_token_id, [kept + len(cells)] * len(pixels))
        for number, (sample, image, positions) in enumerate(owners):
            seen = frame(processor, size_of(sizes, sample, image), (height, width))
            boxes = seen.to_original(boxes_of(cells, side))
            rows = torch.arange(len(cells))
            grids: dict[Part, Grid | tuple[Grid, ...]] = {
                "vision": Grid(number, rows + extra, boxes, cells, shape),
                "projector": Grid(number, rows + kept, boxes, cells, shape),
                "language": Grid(sample, positions[kept:], boxes, cells, shape),
            }
            found.append(Places(sample, image, (seen.height, seen.width), grids, {}))
        return found

    return places


def query_places(config: Config, tensors: dict[str, Any], sizes: Sizes, processor: Any | None) -> list[Places]:
    """Places for Q-Formers: only the vision tower's patches have one (its first row is the class row)."""
    pixels = tensors["pixel_values"]
    side, queries = config.vision_config.patch_size, config.num_query_tokens
    height, width = pixels.shape[-2:]
    cells = cells_of(height // side, width // side)
    why = (
        f"the {queries} queries of the Q-Former mix all patches, so they have no place in the image; "
        "ask for part='vision', whose rows are patches"
    )
    found = []
    for number, (sample, image, _) in enumerate(owners_of(tensors, config.image_token_id, [queries] * len(pixels))):
        frame = picture_frame(processor, size_of(sizes, sample, image), (height, width))
        vision = Grid(
            number,
            torch.arange(len(cells)) + 1,
            frame.to_original(boxes_of(cells, side)),
            cells,
            (height // side, width // side),
        )
        found.append(
            Places(sample, image, (frame.height, frame.width), {"vision": vision}, {"projector": why, "language": why})
        )
    return found
