"""Cells: single counterfactual runs of one sample, and the piece of an activation that belongs to a sample."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Int

from mmlens.core.axes import batch_axis
from mmlens.core.contract import checked
from mmlens.core.errors import InputError
from mmlens.core.kinds import Index
from mmlens.hooks.nodes import Node
from mmlens.inputs.batch import MultimodalBatch
from mmlens.inputs.point_rows import PointRows, owned_entries


@checked
@dataclass(frozen=True)
class Change:
    """What a cell does at one hook point.

    Attributes:
        at: hook name.
        rows: positions on the point's own sequence (queries, at scores and patterns) that it changes, `[row]`; None for all
            rows of the sample. In towers without a batch axis they count in the one sequence of all pictures; where a sample
            has several pictures or tiles along it, `[row]` means these in each, and `[row 2]` pairs of (entry, row).
        apply: from the sample's activation at these rows, without the batch axis, to what takes its place, of the same
            shape. It may be called with a view: it returns a new tensor and changes nothing in place.
    """

    at: str
    rows: Int[torch.Tensor, "row"] | Int[torch.Tensor, "row 2"] | None
    apply: Callable[[torch.Tensor], torch.Tensor] = field(repr=False)


@checked
@dataclass(frozen=True)
class Cell:
    """One counterfactual run of one sample.

    Attributes:
        sample: which sample of the batch.
        changes: what is done, at one or several points; at one point in the order given.
    """

    sample: Index
    changes: tuple[Change, ...]


def entries_of(node: Node, batch: MultimodalBatch, sample: int, count: int) -> list[int]:
    """The entries of a point's batch axis that belong to a sample: the sample itself, or its pictures and tiles.

    Args:
        node: the point.
        batch: the batch.
        sample: which sample.
        count: length of the axis.

    Raises:
        InputError: if the axis does not run over samples and the layout does not say whose its entries are.
    """
    owners = owned_entries(batch, node, count)
    if owners is None or not owners[sample]:
        raise InputError(
            f"{node.name} has {count} entries along its batch axis for {batch.size} samples, and the layout does not say "
            f"which of them are sample {sample}'s; run the samples one by one."
        )
    return owners[sample]


@dataclass(frozen=True)
class Piece:
    """Where the rows of one sample are in a point's activation.

    Attributes:
        entries: along the batch axis; None where there is none.
        rows: along the position axis, the same in each entry; (entry, row) pairs, `[row 2]`, taken together as those of one
            entry; None for all.
        axis: the position axis.
    """

    entries: list[int] | None
    rows: torch.Tensor | None
    axis: int

    def of(self, activation: torch.Tensor) -> torch.Tensor:
        """The piece, without a batch axis unless the sample has several entries."""
        if self.entries is None:
            return activation if self.rows is None else activation.index_select(self.axis, self._rows(activation))
        if self.rows is not None and self.rows.ndim == 2:
            return activation.movedim(self.axis, 1)[self._rows(activation).unbind(1)].movedim(0, self.axis - 1)
        if len(self.entries) == 1:
            entry = activation[self.entries[0]]
            return entry if self.rows is None else entry.index_select(self.axis - 1, self._rows(activation))
        entries = activation[self.entries]
        return entries if self.rows is None else entries.index_select(self.axis, self._rows(activation))

    def put(self, activation: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        """The activation with another piece in its place; the activation is overwritten."""
        new = new.to(activation)
        if self.entries is None:
            return new if self.rows is None else activation.index_copy_(self.axis, self._rows(activation), new)
        if self.rows is not None and self.rows.ndim == 2:
            activation.movedim(self.axis, 1)[self._rows(activation).unbind(1)] = new.movedim(self.axis - 1, 0)
            return activation
        for number, entry in enumerate(self.entries):
            piece = new if len(self.entries) == 1 else new[number]
            if self.rows is None:
                activation[entry] = piece
            else:
                activation[entry].index_copy_(self.axis - 1, self._rows(activation), piece)
        return activation

    def _rows(self, activation: torch.Tensor) -> torch.Tensor:
        if self.rows is None:
            raise TypeError("all rows are meant")
        return self.rows.to(activation.device)


def piece_of(node: Node, batch: MultimodalBatch, sample: int, rows: torch.Tensor | None, shape: torch.Size) -> Piece:
    """Where the rows of a sample are in an activation of the given shape."""
    axis = node.position_axis
    if rows is None and batch.size > 1 and node.part != "language":
        point = PointRows.of(batch, node, shape)
        rows = point.known[sample][:, 1] if point.shared or batch_axis(node.axes) is None else None
    if batch_axis(node.axes) is None:
        return Piece(None, rows, axis)
    if rows is not None and not len(rows):
        return Piece([], rows.new_zeros(0, 2), axis)
    return Piece(entries_of(node, batch, sample, shape[0]), rows, axis)


def activation_rows(
    activation: torch.Tensor,
    node: Node,
    batch: MultimodalBatch,
    sample: int,
    rows: Int[torch.Tensor, "row"] | Int[torch.Tensor, "row 2"] | None = None,
) -> torch.Tensor:
    """What a change at a point is given: one sample's rows of an activation.

    Args:
        activation: of a whole run of the batch, e.g. out of a cache.
        node: the point.
        batch: the batch that was run.
        sample: which sample.
        rows: which rows; None for all of the sample.

    Returns:
        The rows, without the batch axis; with one in front if the sample has several pictures or tiles on it.

    Example:
        >>> _, cache = model.run_with_cache(batch, names="blocks.0.hook_resid_pre")
        >>> node = model.graph["blocks.0.hook_resid_pre"]
        >>> activation_rows(cache[node.name], node, batch, 0, torch.tensor([2, 3])).shape[0]
        2
    """
    return piece_of(node, batch, sample, rows, activation.shape).of(activation)
