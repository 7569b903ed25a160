"""The rows of each sample that a position rule means, on any sequence, in towers with and without a batch axis."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import torch

from mmlens.core.errors import InputError
from mmlens.core.names import Part
from mmlens.core.units import Positions
from mmlens.hooks.nodes import Node
from mmlens.inputs.batch import MultimodalBatch
from mmlens.inputs.layout import TokenLayout

#: A position rule; or one list of rows per sample, for objects that lie elsewhere in each picture.
RowRule: TypeAlias = Positions | Sequence[torch.Tensor]


def part_of(node: Node) -> Part | None:
    """The part whose places rows of the point's sequence have."""
    known: dict[str, Part] = {"language": "language", "vision": "vision", "projector": "projector"}
    return known.get(node.sequence)


def sequence_length(batch: MultimodalBatch, sequence: str) -> int | None:
    """Number of positions of a sequence, or None where only a run tells."""
    if sequence == "decoder":
        written = batch.inputs.get("decoder_input_ids")
        return 1 if written is None else written.shape[1]
    return batch.layout.length(sequence)


def own_rows(batch: MultimodalBatch, node: Node, sample: int) -> torch.Tensor:
    """The rows of a sample's pictures in a tower whose one sequence holds the pictures of all samples."""
    part = part_of(node)
    own = [places for places in batch.layout.places if places.sample == sample and part not in places.placeless]
    if part is None or not own:
        raise InputError(
            f"Which rows of {node.name} are sample {sample}'s is not known; patch language points instead."
        )
    return torch.cat([view.rows for places in own for view in places.views(part)]).unique()


def rows_per_sample(batch: MultimodalBatch, node: Node, rule: RowRule) -> tuple[torch.Tensor | None, ...]:
    """The rows that a rule means, per sample.

    Raises:
        InputError: if it names nothing in a sample, or a row that does not exist.
    """
    layout, size = batch.layout, batch.size
    packed = not node.axes.startswith("batch")
    if is_listed(rule):
        return listed_rows(layout, rule, node.sequence, sequence_length(batch, node.sequence))  # type: ignore[arg-type]
    if isinstance(rule, str) and node.sequence == "language" and rule in ("all", "image", "text"):
        masks = {"all": layout.is_token, "image": layout.is_image, "text": layout.is_token & ~layout.is_image}
        rows = tuple(row.nonzero().flatten() for row in masks[rule])
        empty = [sample for sample, found in enumerate(rows) if not len(found)]
        if empty:
            raise InputError(f"positions={rule!r} names nothing in samples {empty}.")
        return rows
    if rule == "all" or (rule == "image" and (packed or node.sequence == "queries")):
        return (None,) * size
    length = sequence_length(batch, node.sequence)
    if length is None:
        return _unchecked(node, rule, size)
    found = layout.rows(rule, node.sequence, length)  # type: ignore[arg-type]
    if found.ndim == 2:
        if len(found) != size:
            raise InputError(
                f"positions={rule!r} mean other rows in each of the {len(found)} pictures and tiles at {node.name}; use 'all', "
                "or language-model points."
            )
        return tuple(found)
    if packed and size > 1:
        raise InputError(
            f"{node.name} holds the rows of all {size} samples in one sequence; give positions as one list per sample."
        )
    return (found,) * size


def is_listed(rule: Any) -> bool:
    """Whether a rule is one list of rows per sample."""
    return isinstance(rule, list | tuple) and len(rule) > 0 and all(isinstance(item, torch.Tensor) for item in rule)


def listed_rows(
    layout: TokenLayout, rule: Sequence[torch.Tensor], sequence: str, length: int | None
) -> tuple[torch.Tensor, ...]:
    """One list of rows per sample, checked.

    Raises:
        InputError: if there are not as many as samples, or a row does not exist.
    """
    size = len(layout.is_token)
    if len(rule) != size:
        raise InputError(f"positions were given for {len(rule)} samples, and the batch has {size}; give one list each.")
    return tuple(layout.rows(rows, sequence, length) for rows in rule)


def _unchecked(node: Node, rule: Any, size: int) -> tuple[torch.Tensor, ...]:
    """Indices on a sequence whose length only a run tells."""
    if isinstance(rule, str | slice):
        raise InputError(
            f"The length of the {node.sequence} sequence is not known before a run, so positions={rule!r} has no meaning at "
            f"{node.name}; use 'all' or give positions by index."
        )
    rows = torch.as_tensor(rule)
    rows = rows.reshape(1) if rows.ndim == 0 else rows
    if not rows.numel() or int(rows.min()) < 0:
        raise InputError(f"positions={rule!r} must be indices from 0 up on the {node.sequence} sequence.")
    return tuple(rows) if rows.ndim == 2 else (rows,) * size
