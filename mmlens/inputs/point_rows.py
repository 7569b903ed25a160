"""Each sample's own rows at a point: its tokens, or the rows of its pictures in a tower, wherever these lie in the tensor."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Int

from mmlens.core.axes import batch_axis
from mmlens.core.errors import InputError
from mmlens.core.names import Part
from mmlens.hooks.graph import HookGraph
from mmlens.hooks.nodes import Node
from mmlens.inputs.batch import MultimodalBatch, forced_on
from mmlens.inputs.patch_geometry import Places, RowGrid

#: Sequences that new tokens follow in a generation.
GROWING = ("language", "decoder")

#: Sequences whose rows may have places in the picture, and the part that says which.
_PLACED: dict[str, Part] = {"language": "language", "vision": "vision", "projector": "projector"}


def place_part(sequence: str) -> Part | None:
    """The part whose places in the picture rows of a sequence have; None where they have none."""
    return _PLACED.get(sequence)


def growing_length(batch: MultimodalBatch, sequence: str) -> int:
    """Number of positions that one of the growing sequences starts from, tokens that count as new among them."""
    if sequence == "decoder":
        decoder_ids = batch.inputs.get("decoder_input_ids")
        return 1 if decoder_ids is None else decoder_ids.shape[1]
    return batch.layout.is_token.shape[1]


def sequence_length(batch: MultimodalBatch, sequence: str) -> int | None:
    """Number of positions of a sequence, or None where only a run tells."""
    return growing_length(batch, sequence) if sequence in GROWING else batch.layout.length(sequence)


def _length_ahead(batch: MultimodalBatch, node: Node) -> int | None:
    """Number of rows of a point before it runs, or None where only a run tells."""
    if (node.part, node.sequence) != ("projector", "vision"):
        return sequence_length(batch, node.sequence)
    # a class row behind the patches is not handed on
    grids = [grid for places in batch.layout.places for grid in places.views("vision")]
    return max((1 + int(grid.rows.max()) for grid in grids), default=None)


def prompt_point(graph: HookGraph) -> Node:
    """The first point of the language model whose rows are the positions of the prompt."""
    return next(node for node in graph if node.part == "language" and node.sequence == "language")


@dataclass(frozen=True, eq=False)
class PointRows:
    """Each sample's own rows at a point, in order.

    Attributes:
        batch: the batch.
        node: the point.
        length: positions of its sequence, without tokens that count as new; None where only a run tells.
        entries: length of its batch axis; None where it has none, or only a run tells.
        own: per sample, (entry of the batch axis, row) of its rows; None where that is not known.
        written: per sample, the new tokens of a generation that is over; None in all other cases.
    """

    batch: MultimodalBatch
    node: Node
    length: int | None
    entries: int | None
    own: tuple[Int[torch.Tensor, "row 2"], ...] | None
    written: Sequence[Sequence[int]] | None = None

    @classmethod
    def of(cls, batch: MultimodalBatch, node: Node, shape: Sequence[int] | None = None) -> "PointRows":
        """The rows of a batch at a point.

        Args:
            batch: the batch.
            node: the point.
            shape: of the point's tensor in the run under way; before a run the batch says what it can.
        """
        axis = batch_axis(node.axes)
        length = _length_ahead(batch, node) if shape is None else shape[node.position_axis]
        count = None if axis is None or shape is None else shape[axis]
        if node.sequence in GROWING:
            start = growing_length(batch, node.sequence) - forced_on(batch, node.sequence)
            return cls(batch, node, start, batch.texts, tuple(_prompt_rows(batch, node.sequence, start)))
        if length is None:
            return cls(batch, node, None, count, None)
        if axis is None:
            return cls(batch, node, length, None, _packed_rows(batch, node, length))
        owners = owned_entries(batch, node, count)
        if owners is None:
            return cls(batch, node, length, count, None)
        rows = torch.arange(length)
        if _share(owners):
            sample_pairs = _placed_rows(batch, node, is_packed=False)
        else:
            sample_pairs = tuple(torch.cartesian_prod(torch.tensor(e), rows) if e else _NO_ROWS for e in owners)
        return cls(
            batch,
            node,
            length,
            count or 1 + max((e for sample_entries in owners for e in sample_entries), default=0),
            sample_pairs,
        )

    @property
    def size(self) -> int:
        """Number of samples at the point."""
        return self.batch.count(self.node.part)

    @property
    def extent(self) -> int:
        """Positions of its sequence, without tokens that count as new; 0 where only a run tells."""
        return self.length or 0

    @cached_property
    def counts(self) -> list[int]:
        """How many rows each sample has."""
        return [len(rows) for rows in self.known]

    @cached_property
    def shared(self) -> bool:
        """Whether samples lie in one sequence, or in one entry of the batch axis."""
        entries = [int(entry) for sample_pairs in self.own or () for entry in sample_pairs[:, 0].unique()]
        return len(set(entries)) < len(entries)

    @property
    def known(self) -> tuple[Int[torch.Tensor, "row 2"], ...]:
        """Per sample, its rows.

        Raises:
            UnknownRowsError: if only a run tells how many there are.
            InputError: if it is not known which rows are whose.
        """
        if self.own is not None:
            return self.own
        if self.length is None:
            raise UnknownRowsError(
                f"How many rows {self.node.name} has on the {self.node.sequence} sequence is known once it runs; here use "
                "positions='all' or whole numbers from 0 up."
            )
        raise InputError(
            f"{self.node.name} [{self.node.axes}] holds rows of all {self.size} samples, and which are whose is not known; "
            "use positions='all', or run the samples one by one."
        )

    def numbers(self, sample: int, pairs: Int[torch.Tensor, "row 2"]) -> Int[torch.Tensor, "row"]:
        """The numbers, among a sample's own, of rows that it has."""
        width = self.extent
        keys = self.known[sample][:, 0] * width + self.known[sample][:, 1]
        return torch.isin(keys, pairs[:, 0] * width + pairs[:, 1]).nonzero().flatten()


def require_own_rows(batch: MultimodalBatch, nodes: Iterable[Node]) -> None:
    """Refuse points of a dual encoder's text tower where texts are no samples' own.

    Raises:
        InputError: if the batch has another number of texts than of pictures.
    """
    texts = [node.name for node in nodes if node.part == "language"] if batch.apart and not batch.paired else []
    if texts:
        raise InputError(
            f"{texts[0]} is a point of the text tower, and the batch has {batch.texts} texts for {batch.size} pictures, so that "
            "no sample has a text of its own; prepare as many texts as pictures (repeat some), or choose points of the vision "
            "tower."
        )


class UnknownRowsError(InputError):
    """How many rows a sequence has is not known before it runs."""


_NO_ROWS = torch.zeros(0, 2, dtype=torch.long)


def _prompt_rows(batch: MultimodalBatch, sequence: str, length: int) -> list[torch.Tensor]:
    """(sample, row) of what a sequence of tokens starts from; padding is left out."""
    is_prompt = sequence == "language"
    there = batch.layout.is_token[:, :length] if is_prompt else torch.ones(batch.size, length, dtype=torch.bool)
    return [torch.stack([torch.full_like(rows, s), rows], 1) for s, rows in enumerate(_each_true(there))]


def _each_true(mask: torch.Tensor) -> list[torch.Tensor]:
    return [row.nonzero().flatten() for row in mask]


def _packed_rows(batch: MultimodalBatch, node: Node, length: int) -> tuple[torch.Tensor, ...] | None:
    """(0, row) of each sample's pictures in a sequence that holds those of all samples; None where that is not known."""
    if batch.size == 1:
        rows = torch.arange(length)
        return (torch.stack([torch.zeros_like(rows), rows], 1),)
    return _placed_rows(batch, node, is_packed=True)


def _share(owners: Sequence[Sequence[int]]) -> bool:
    """Whether samples lie in one entry of a batch axis."""
    entries = [entry for sample_entries in owners for entry in sample_entries]
    return len(set(entries)) < len(entries)


def _placed_rows(batch: MultimodalBatch, node: Node, *, is_packed: bool) -> tuple[torch.Tensor, ...] | None:
    """(entry, row) of each sample's pictures where these share an entry, or the whole sequence; None where that is not known."""
    # what the projector receives may lie on the tower's own rows, before it merges them
    part: Part = "vision" if node.sequence == "vision" else node.part
    if any(part not in places.grids for places in batch.layout.places):
        return None
    result = []
    for sample in range(batch.size):
        sample_pairs = [
            entry_rows(grid, is_packed=is_packed) for places in places_of(batch, sample) for grid in places.views(part)
        ]
        result.append(torch.cat(sample_pairs).unique(dim=0) if sample_pairs else _NO_ROWS)
    return tuple(result)


def places_of(batch: MultimodalBatch, sample: int) -> list[Places]:
    """The places of one sample's pictures."""
    return [places for places in batch.layout.places if places.sample == sample]


def entry_rows(grid: RowGrid, *, is_packed: bool = False) -> Int[torch.Tensor, "row 2"]:
    """(entry, row) of the rows of a grid; entry 0 where there is no batch axis."""
    entry = 0 if is_packed or grid.index is None else grid.index
    entries = entry if isinstance(entry, torch.Tensor) else torch.full_like(grid.rows, entry)
    return torch.stack([entries, grid.rows], dim=1)


def owned_entries(batch: MultimodalBatch, node: Node, count: int | None) -> list[list[int]] | None:
    """Per sample, the entries of a point's batch axis that hold it: the sample itself, or its pictures and their tiles.

    Args:
        batch: the batch.
        node: the point.
        count: length of the axis; None before a run.

    Returns:
        The entries; None where it is not known which are whose.
    """
    if node.part == "language":
        return [[sample] for sample in range(batch.texts)]
    if batch.size == 1 and count is not None:
        return [list(range(count))]
    entries = _placed_entries(batch, "vision" if node.sequence == "vision" else node.part)
    if entries is not None and (count is None or max((e for numbers in entries for e in numbers), default=0) < count):
        return entries
    one_each = [place.sample for place in batch.layout.places] == list(range(batch.size))
    return [[sample] for sample in range(batch.size)] if one_each and count in (None, batch.size) else None


def _placed_entries(batch: MultimodalBatch, part: Part) -> list[list[int]] | None:
    """Per sample, the entries in which the layout has rows of its pictures; None where it does not say."""
    entries: list[set[int]] = [set() for _ in range(batch.size)]
    for place in batch.layout.places:
        views = place.views(part) or place.views("vision")
        if not views or any(grid.index is None for grid in views):
            return None
        for grid in views:
            entries[place.sample] |= set(entry_rows(grid)[:, 0].tolist())
    return [sorted(numbers) for numbers in entries] if batch.layout.places else None
