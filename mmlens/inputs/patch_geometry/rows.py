"""Which rows of every part stand for which pixels: worked out per family from its configuration and tensors.

A family's `places` function gets `(config, tensors, sizes, image_processor)` and returns one `Places` per picture, in
the order of the batch. Pixel boxes are (left, top, right, bottom) in pixels of the user's picture.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch

from mmlens.core.errors import InputError
from mmlens.core.names import Part

#: (height, width) of every picture of every sample, or None where pictures came as tensors.
Sizes: TypeAlias = list[list[tuple[int, int]]] | None
#: (frames, height, width) of every video of every sample, or None where videos came as tensors.
VideoSizes: TypeAlias = list[list[tuple[int, int, int]]] | None


@dataclass(frozen=True)
class RowGrid:
    """The rows of one part that stand for one picture, or for one view of it.

    Attributes:
        index: which entry of the part's batch axis holds them; None in packed towers, which have none; one number per
            row, `[n]`, where the picture was cut into tiles that lie in an entry each.
        rows: `[n]` rows along the part's position axis.
        boxes: `[n, 4]` pixel box of each row.
        cells: `[n, 2]` (row, column) of each in the picture's grid.
        shape: (rows, columns) of that grid.
    """

    index: int | torch.Tensor | None
    rows: torch.Tensor
    boxes: torch.Tensor
    cells: torch.Tensor
    shape: tuple[int, int]


@dataclass(frozen=True)
class Places:
    """Where one picture's rows are, part by part; or those of a video's frame.

    Attributes:
        sample, image: which picture (or video) of which sample.
        size: (height, width) of the picture in pixels.
        grids: the rows of each part that have a place; several grids where the model sees the picture in several views
            (as a whole and cut into tiles).
        placeless: why a part's rows have none, for the parts where they do not.
        lengths: how many rows a part has, where some without a place follow the last that has one.
        frames: which frames of the video these rows stand for: one, or several that the model reads together; none for a
            picture.
    """

    sample: int
    image: int
    size: tuple[int, int]
    grids: Mapping[Part, RowGrid | tuple[RowGrid, ...]]
    placeless: Mapping[Part, str]
    lengths: Mapping[Part, int] = field(default_factory=dict)
    frames: tuple[int, ...] = ()

    def views(self, part: Part) -> tuple[RowGrid, ...]:
        """The grids of one part, one per view; none if its rows have no place."""
        grids = self.grids.get(part, ())
        return grids if isinstance(grids, tuple) else (grids,)


def cells_of(rows: int, columns: int) -> torch.Tensor:
    """(row, column) of every cell in raster order, `[rows * columns, 2]`."""
    return torch.cartesian_prod(torch.arange(rows), torch.arange(columns))


def boxes_of(cells: torch.Tensor, side: int) -> torch.Tensor:
    """Pixel boxes `[n, 4]` of square cells of a given side."""
    top_left = cells.flip(-1) * side
    return torch.cat([top_left, top_left + side], dim=-1)


def owners_of(
    tensors: dict[str, Any], image_token: int, tokens_per_image: list[int]
) -> list[tuple[int, int, torch.Tensor]]:
    """(sample, image within it, its token positions) for every picture (or video), in order.

    Raises:
        InputError: if a sample's image tokens do not add up to whole pictures.
    """
    owners: list[tuple[int, int, torch.Tensor]] = []
    counts = iter(tokens_per_image)
    for sample, ids in enumerate(tensors["input_ids"]):
        positions = (ids == image_token).nonzero().flatten().cpu()
        image = 0
        while len(positions):
            count = next(counts, None)
            if count is None or count > len(positions):
                raise InputError(
                    f"Sample {sample} has {len(positions)} image tokens left over after {image} pictures; the pictures given "
                    f"need {tokens_per_image} tokens. Pass one picture per placeholder, in the order of the samples."
                )
            owners.append((sample, image, positions[:count]))
            positions, image = positions[count:], image + 1
    if len(owners) != len(tokens_per_image):
        raise InputError(
            f"{len(tokens_per_image)} pictures were given for {len(owners)} placeholders. Put one placeholder per picture "
            "into the text (prepare() does it for you)."
        )
    return owners


def size_of(sizes: Sizes, sample: int, image: int) -> tuple[int, int] | None:
    """(height, width) of one picture, or None where sizes are unknown."""
    return None if sizes is None else sizes[sample][image]
