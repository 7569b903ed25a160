"""Groups of positions that are patched together: words, blocks of the picture, boxes and masks, single positions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch

from mmlens.core.errors import InputError
from mmlens.hooks.nodes import Node
from mmlens.inputs.batch import MultimodalBatch
from mmlens.interventions.sample_rows import RowRule, own_rows, part_of, rows_per_sample, sequence_length


@dataclass(frozen=True)
class Blocks:
    """The picture in blocks of patches; see `grid`.

    Attributes:
        side: patches along each side of a block.
    """

    side: int


#: What a sweep takes as its groups of positions.
Groups: TypeAlias = Literal["each"] | str | Sequence[str] | Mapping[str, RowRule] | Blocks


def grid(side: int) -> Blocks:
    """Groups of positions: the picture cut into blocks of `side x side` patches, named `r0c0`, `r0c1`, ... row by row.

    Blocks at the right and lower edge are smaller where the picture's patches do not divide.

    Args:
        side: patches along each side of a block.

    Example:
        >>> from mmlens.analysis.patching.groups import grid
        >>> grid(4)
        Blocks(side=4)
    """
    if side < 1:
        raise InputError(f"side={side} must be at least 1 patch.")
    return Blocks(side)


@dataclass(frozen=True)
class Group:
    """Positions that are patched together.

    Attributes:
        name: how results call it.
        rows: per sample, its rows on the sequence; None for all that the sample has, empty for none.
        boxes: pixel boxes of the first sample's rows, where they have a place.
    """

    name: str
    rows: tuple[torch.Tensor | None, ...]
    boxes: torch.Tensor | None = None


def groups_on(batch: MultimodalBatch, node: Node, positions: Groups) -> list[Group]:
    """The groups on the sequence of a point.

    Args:
        batch: whose rows are meant.
        node: the point.
        positions: what the caller asked for.

    Raises:
        InputError: for rules that name nothing, rows out of range, or blocks where rows have no place.
    """
    if isinstance(positions, Blocks):
        return _blocks(batch, node, positions.side)
    if isinstance(positions, str):
        if positions == "each":
            return _each(batch, node)
        positions = (positions,)
    rules: Mapping[str, Any]
    rules = positions if isinstance(positions, Mapping) else {str(rule): rule for rule in positions}
    if not rules:
        raise InputError("positions are empty: name at least one group.")
    found = []
    for name, rule in rules.items():
        rows = rows_per_sample(batch, node, rule)
        found.append(Group(name, rows, _boxes(batch, node, rows[0])))
    return found


def _boxes(batch: MultimodalBatch, node: Node, rows: torch.Tensor | None) -> torch.Tensor | None:
    """Pixel boxes of the first sample's rows; None where not all of them have one."""
    part = part_of(node)
    if part is None or rows is None or not len(rows):
        return None
    owned = [places for places in batch.layout.places if places.sample == 0]
    if len(owned) != 1 or part in owned[0].placeless:
        return None
    views = owned[0].views(part)
    if len(views) != 1 or not set(rows.tolist()) <= set(views[0].rows.tolist()):
        return None
    return batch.layout.boxes(rows, part=part)


def _each(batch: MultimodalBatch, node: Node) -> list[Group]:
    """Every position by itself; padding is left alone."""
    length = sequence_length(batch, node.sequence)
    if length is None:
        raise InputError(
            f"The length of the {node.sequence} sequence is not known before a run; give positions by index."
        )
    if node.axes.startswith("batch"):
        there = (
            batch.layout.is_token if node.sequence == "language" else torch.ones(batch.size, length, dtype=torch.bool)
        )
        rows = [tuple(torch.tensor([i] if has else [], dtype=torch.long) for has in there[:, i]) for i in range(length)]
    else:
        own = [own_rows(batch, node, sample) for sample in range(batch.size)]
        longest = max(map(len, own))
        rows = [tuple(found[i : i + 1] for found in own) for i in range(longest)]
    return [Group(str(i), found, _boxes(batch, node, found[0])) for i, found in enumerate(rows)]


def _blocks(batch: MultimodalBatch, node: Node, side: int) -> list[Group]:
    part = part_of(node)
    if part is None:
        raise InputError(
            f"Rows of the sequence {node.sequence!r} have no place in the picture, so {node.name} has no blocks; use words or "
            "indices."
        )
    several = [s for s in range(batch.size) if sum(places.sample == s for places in batch.layout.places) != 1]
    if several:
        raise InputError(f"Blocks need one picture per sample; samples {several} have none or several.")
    grids = [batch.layout.grid(part, sample=sample) for sample in range(batch.size)]
    shapes = {tuple(found.shape) for found in grids}
    if len(shapes) > 1:
        raise InputError(
            f"The pictures have {sorted(shapes)} (rows, columns) of patches; sweep pictures of one shape together."
        )
    if any(isinstance(found.index, torch.Tensor) for found in grids):
        raise InputError(
            f"The picture's tiles lie in different entries of {node.name}'s batch axis; patch language points."
        )
    height, width = grids[0].shape
    groups = []
    for top in range(0, height, side):
        for left in range(0, width, side):
            rows = []
            for found in grids:
                cells = found.cells
                inside = (cells[:, 0] >= top) & (cells[:, 0] < top + side)
                inside &= (cells[:, 1] >= left) & (cells[:, 1] < left + side)
                rows.append(found.rows[inside])
            if len(rows[0]):
                boxes = batch.layout.boxes(rows[0], part=part) if len(batch.layout.views(part)) == 1 else None
                groups.append(Group(f"r{top // side}c{left // side}", tuple(rows), boxes))
    return groups
