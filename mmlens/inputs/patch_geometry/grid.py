"""Places of pictures that one raster stands for, the same for every picture of a batch."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from mmlens.core.names import Part
from mmlens.declarations.structure import Config
from mmlens.inputs.patch_geometry.frame import Frame, picture_frame
from mmlens.inputs.patch_geometry.rows import Places, RowGrid, Sizes, boxes_of, cells_of, owners_of, size_of


@dataclass(frozen=True)
class Raster:
    """The rows of one part that stand for a picture.

    Attributes:
        rows: `[n]` rows of the picture's entry of the part; in the language model, numbers among the picture's tokens.
        boxes: `[n, 4]` what each stands for, in pixels that the tower receives.
        cells: `[n, 2]` (row, column) of each in the raster.
        shape: (rows, columns) of the raster.
    """

    rows: torch.Tensor
    boxes: torch.Tensor
    cells: torch.Tensor
    shape: tuple[int, int]

    @classmethod
    def of(cls, shape: tuple[int, int], side: int, *, first: int = 0) -> "Raster":
        """Square cells of a given side in raster order, from row `first` on."""
        cells = cells_of(*shape)
        return cls(torch.arange(len(cells)) + first, boxes_of(cells, side), cells, shape)


def raster_places(
    config: Config,
    tensors: dict[str, Any],
    sizes: Sizes,
    processor: Any | None,
    rasters: Mapping[Part, Raster],
    placeless: Mapping[Part, str] | None = None,
    *,
    tokens: int = 0,
    entries: Sequence[tuple[int, int, int]] | None = None,
    target: tuple[int, int] | None = None,
    frame: Callable[[Any, tuple[int, int] | None, tuple[int, int]], Frame] = picture_frame,
) -> list[Places]:
    """One grid a picture for each raster.

    Args:
        config, tensors, sizes, processor: as for every family's `places`.
        rasters: by part.
        placeless: why the rows of the other parts have no place.
        tokens: image tokens of a picture.
        entries: (entry of the batch axis of tower and projector, sample, picture) of every picture; by default one entry
            a picture, in the order of their tokens.
        target: (height, width) that the tower receives; that of the pixels by default.
        frame: how a picture's pixels come to be those that the tower receives, given `(image processor, size, target)`.
    """
    pixels = tensors["pixel_values"]
    *_, height, width = pixels.shape
    target = target or (height, width)
    if entries is None:
        owners = owners_of(tensors, config.image_token_id, [tokens] * len(pixels))
        pictures = [(number, *owner) for number, owner in enumerate(owners)]
    else:
        pictures = [(*entry, torch.empty(0, dtype=torch.long)) for entry in entries]
    places = []
    for entry, sample, image, positions in pictures:
        own_frame = frame(processor, size_of(sizes, sample, image), target)
        grids = {
            part: RowGrid(
                sample if part == "language" else entry,
                positions[raster.rows] if part == "language" else raster.rows,
                own_frame.to_original(raster.boxes),
                raster.cells,
                raster.shape,
            )
            for part, raster in rasters.items()
        }
        places.append(Places(sample, image, (own_frame.height, own_frame.width), grids, placeless or {}))
    return places


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
        frame: as for `raster_places`.
    """

    def places(config: Config, tensors: dict[str, Any], sizes: Sizes, processor: Any | None) -> list[Places]:
        shape, side = patches_of(config, tensors)
        tower = Raster.of(shape, side, first=class_rows(config))
        behind = Raster.of(shape, side) if drops_class(config) else tower
        rasters: dict[Part, Raster] = {"vision": tower, "projector": behind, "language": behind}
        tokens = int(behind.rows[-1]) + 1
        return raster_places(config, tensors, sizes, processor, rasters, tokens=tokens, frame=frame)

    return places


def patches_of(config: Config, tensors: dict[str, Any]) -> tuple[tuple[int, int], int]:
    """(rows, columns) of the patches that a tower cuts its pixels into, and the side of a patch."""
    side = config.vision_config.patch_size
    *_, height, width = tensors["pixel_values"].shape
    return (height // side, width // side), side


def query_places(config: Config, tensors: dict[str, Any], sizes: Sizes, processor: Any | None) -> list[Places]:
    """Places for Q-Formers: the vision tower's patches alone have one."""
    queries = config.num_query_tokens
    placeless = mixed_rows(f"{queries} queries of the Q-Former")
    return vision_places(config, tensors, sizes, processor, placeless, tokens=queries)


def mixed_rows(rows: str) -> dict[Part, str]:
    """Why rows that are learned queries have no place, in the projector and in the language model.

    Args:
        rows: what they are, with their number.
    """
    why = (
        f"the {rows} mix all patches, so they have no place in the image; ask for part='vision', whose rows are patches"
    )
    return {"projector": why, "language": why}


def vision_places(
    config: Config,
    tensors: dict[str, Any],
    sizes: Sizes,
    processor: Any | None,
    placeless: Mapping[Part, str],
    *,
    tokens: int = 0,
    entries: Sequence[tuple[int, int, int]] | None = None,
) -> list[Places]:
    """Places of the patches of a tower with one class row in front, behind which nothing has places.

    Args:
        config, tensors, sizes, processor, placeless, tokens, entries: as for `raster_places`.
    """
    rasters: dict[Part, Raster] = {"vision": Raster.of(*patches_of(config, tensors), first=1)}
    return raster_places(config, tensors, sizes, processor, rasters, placeless, tokens=tokens, entries=entries)
