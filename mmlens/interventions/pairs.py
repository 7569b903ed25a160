"""Pairs of batches whose rows mean the same, so that activations can be moved from one run to the other."""

import torch

from mmlens.core.errors import InputError
from mmlens.core.names import PARTS
from mmlens.inputs.batch import MultimodalBatch
from mmlens.inputs.patch_geometry import RowGrid


def require_same_layout(clean: MultimodalBatch, corrupted: MultimodalBatch) -> None:
    """Check that two batches have the same positions, pictures and padding.

    Raises:
        InputError: if they differ; says where.
    """
    first, second = clean.layout, corrupted.layout
    if first.is_token.shape != second.is_token.shape:
        raise InputError(
            f"clean is {list(first.is_token.shape)} and corrupted {list(second.is_token.shape)} [batch pos]; use texts "
            "of equal token length."
        )
    for kind, a, b in (
        ("image tokens", first.is_image, second.is_image),
        ("padding", ~first.is_token, ~second.is_token),
    ):
        if not torch.equal(a, b):
            sample, position = (a != b).nonzero()[0].tolist()
            raise InputError(
                f"clean and corrupted differ in where {kind} are, first at position {position} of sample {sample}."
            )
    for name in sorted(set(clean) | set(corrupted)):
        shapes = [list(batch[name].shape) if name in batch else None for batch in (clean, corrupted)]
        if shapes[0] != shapes[1]:
            raise InputError(
                f"clean and corrupted differ in {name}: {shapes[0]} and {shapes[1]}; use pictures of one size, made by one "
                "processor."
            )
    if len(first.places) != len(second.places):
        raise InputError(f"clean has {len(first.places)} pictures and corrupted {len(second.places)}; use as many.")
    for number, places in enumerate(zip(first.places, second.places, strict=True)):
        for part in PARTS:
            if any(part in picture_places.placeless for picture_places in places):
                continue
            views = [picture_places.views(part) for picture_places in places]
            if list(map(_layout, views[0])) != list(map(_layout, views[1])):
                view_shapes = [" and ".join(str(grid.shape) for grid in grids) for grids in views]
                raise InputError(
                    f"clean and corrupted differ in picture {number}: its rows in the part {part!r} are {view_shapes[0]} (rows, "
                    f"columns) of patches and {view_shapes[1]}; use pictures of one size."
                )


def _layout(grid: RowGrid) -> tuple[object, ...]:
    """What must be the same of the rows of a picture."""
    return grid.shape, grid.rows.tolist(), grid.cells.tolist()
