"""Pairs of batches whose rows mean the same, so that activations can be moved from one run to the other."""

import torch

from mmlens.core.errors import InputError
from mmlens.core.names import PARTS
from mmlens.inputs.batch import MultimodalBatch


def require_same_layout(clean: MultimodalBatch, corrupted: MultimodalBatch) -> None:
    """Check that two batches have the same positions, pictures and padding.

    Raises:
        InputError: if they differ; says where.
    """
    one, other = clean.layout, corrupted.layout
    if one.is_token.shape != other.is_token.shape:
        raise InputError(
            f"clean is {list(one.is_token.shape)} and corrupted {list(other.is_token.shape)} [batch pos]; use texts "
            "of equal token length."
        )
    for what, a, b in (("image tokens", one.is_image, other.is_image), ("padding", ~one.is_token, ~other.is_token)):
        if not torch.equal(a, b):
            sample, position = (a != b).nonzero()[0].tolist()
            raise InputError(
                f"clean and corrupted differ in where {what} are, first at position {position} of sample {sample}."
            )
    for name in sorted(set(clean) | set(corrupted)):
        shapes = [list(batch[name].shape) if name in batch else None for batch in (clean, corrupted)]
        if shapes[0] != shapes[1]:
            raise InputError(
                f"clean and corrupted differ in {name}: {shapes[0]} and {shapes[1]}; use pictures of one size, made by one "
                "processor."
            )
    for number, (own, its) in enumerate(zip(one.places, other.places, strict=True)):
        for part in PARTS:
            if part in own.placeless:
                continue
            for grid, twin in zip(own.views(part), its.views(part), strict=False):
                if grid.shape != twin.shape or not (
                    torch.equal(grid.rows, twin.rows) and torch.equal(grid.cells, twin.cells)
                ):
                    raise InputError(
                        f"clean and corrupted differ in picture {number}: its rows in the part {part!r} are {grid.shape} (rows, "
                        f"columns) of patches and {twin.shape}; use pictures of one size."
                    )
