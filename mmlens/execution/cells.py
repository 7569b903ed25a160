"""Cells: single counterfactual runs of one sample, and the piece of an activation that belongs to a sample."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Int

from mmlens.core.axes import batch_axis
from mmlens.core.errors import InputError
from mmlens.core.names import Part
from mmlens.hooks.nodes import Node
from mmlens.inputs.batch import MultimodalBatch


@dataclass(frozen=True)
class Change:
    """What a cell does at one hook point.

    Attributes:
        at: hook name.
        rows: positions on the point's own sequence (queries, at scores and patterns) that it changes; None for all rows of
            the sample. In towers without a batch axis they count in the one sequence of all pictures.
        apply: from the sample's activation at these rows, without the batch axis, to what takes its place, of the same
            shape. It may be called with a view: it returns a new tensor and changes nothing in place.
    """

    at: str
    rows: Int[torch.Tensor, "row"] | None
    apply: Callable[[torch.Tensor], torch.Tensor] = field(repr=False)


@dataclass(frozen=True)
class Cell:
    """One counterfactual run of one sample.

    Attributes:
        sample: which sample of the batch.
        changes: what is done, at one or several points; at one point in the order given.
    """

    sample: int
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
    if node.part == "language" or (count == batch.size and not _has_several(batch)):
        return [sample]
    if batch.size == 1:
        return list(range(count))
    entries: set[int] = set()
    for places in batch.layout.places:
        if places.sample == sample and node.part not in places.placeless:
            for grid in places.views(node.part):
                index = grid.index
                entries |= set(index.tolist()) if isinstance(index, torch.Tensor) else {index or 0}
    if not entries or max(entries) >= count:
        raise InputError(
            f"{node.name} has {count} entries along its batch axis for {batch.size} samples, and the layout does not say "
            "which are whose; run the samples one by one."
        )
    return sorted(entries)


def _has_several(batch: MultimodalBatch) -> bool:
    """Whether samples differ from having one picture each."""
    owners = [places.sample for places in batch.layout.places]
    return owners != list(range(batch.size))


def _packed_rows(node: Node, batch: MultimodalBatch, sample: int, length: int) -> torch.Tensor:
    """The rows of a sample's pictures in a sequence that holds those of all samples."""
    if batch.size == 1:
        return torch.arange(length)
    # what the projector receives may lie on the tower's own rows, before it merges them
    part: Part = "vision" if node.sequence == "vision" else node.part
    pictures = [places for places in batch.layout.places if places.sample == sample and part not in places.placeless]
    rows = [grid.rows for places in pictures for grid in places.views(part)]
    if not rows:
        raise InputError(
            f"{node.name} holds the rows of all pictures in one sequence, and the layout does not say which are sample "
            f"{sample}'s; name the rows, or run the samples one by one."
        )
    return torch.cat(rows).unique()


@dataclass(frozen=True)
class Piece:
    """Where the rows of one sample are in a point's activation.

    Attributes:
        entries: along the batch axis; None where there is none.
        rows: along the position axis; None for all.
        axis: the position axis.
    """

    entries: list[int] | None
    rows: torch.Tensor | None
    axis: int

    def of(self, activation: torch.Tensor) -> torch.Tensor:
        """The piece, without a batch axis unless the sample has several entries."""
        if self.entries is None:
            return activation if self.rows is None else activation.index_select(self.axis, self._rows(activation))
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
    if batch_axis(node.axes) is None:
        if rows is None and batch.size > 1:
            rows = _packed_rows(node, batch, sample, shape[axis])
        return Piece(None, rows, axis)
    return Piece(entries_of(node, batch, sample, shape[0]), rows, axis)


def rows_of(
    activation: torch.Tensor,
    node: Node,
    batch: MultimodalBatch,
    sample: int,
    rows: Int[torch.Tensor, "row"] | None = None,
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
        >>> rows_of(cache[node.name], node, batch, 0, torch.tensor([2, 3])).shape[0]
        2
    """
    return piece_of(node, batch, sample, rows, activation.shape).of(activation)
