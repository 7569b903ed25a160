"""Groups of positions that are patched together: rules by name, single positions, blocks of the picture."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from mmlens.core.errors import InputError
from mmlens.core.rule_groups import Each, Grid, Groups, as_groups
from mmlens.hooks.nodes import Node
from mmlens.inputs.batch import MultimodalBatch
from mmlens.inputs.point_rows import require_own_rows
from mmlens.inputs.positions import ResolvedPositions, resolve, resolve_blocks


@dataclass(frozen=True)
class Group:
    """Positions that are patched together.

    Attributes:
        name: how results call it.
        rows: per sample, its rows on the sequence, or (entry, row) in towers that hold it in several entries; None for all
            that the sample has, empty for none.
        boxes: pixel boxes of the first sample's rows, where they have a place.
    """

    name: str
    rows: tuple[torch.Tensor | None, ...]
    boxes: torch.Tensor | None = None


def default_groups(batch: MultimodalBatch, nodes: Iterable[Node]) -> Groups:
    """The groups of a sweep that names none: picture, text and last position of the prompt; all rows elsewhere.

    Args:
        batch: whose rows are meant.
        nodes: the points.
    """
    if any(node.sequence != "language" for node in nodes):
        return ("all",)
    return ("image", "text", "last") if batch.layout.is_image.any() else ("text", "last")


def groups_on(batch: MultimodalBatch, node: Node, positions: Groups) -> list[Group]:
    """The groups on the sequence of a point.

    Args:
        batch: whose rows are meant.
        node: the point.
        positions: what the caller asked for.

    Raises:
        InputError: for rules that name nothing, rows out of range, or blocks where rows have no place.
    """
    rules = as_groups(positions)
    if isinstance(rules, Each):
        return _each(resolve(rules.of, batch, node), rules)
    if isinstance(rules, Grid):
        blocks = resolve_blocks(batch, node, rules.side)
    else:
        blocks = {name: resolve(rule, batch, node) for name, rule in rules.items()}
    return [_group(name, resolved) for name, resolved in blocks.items()]


def _group(name: str, resolved: ResolvedPositions) -> Group:
    size = resolved.point.batch.size
    return Group(name, tuple(resolved.rows_of(sample) for sample in range(size)), resolved.boxes)


def _each(resolved: ResolvedPositions, rule: Each) -> list[Group]:
    """Every position by itself; samples that have fewer are left alone in the rest."""
    if resolved.point.own is None:
        resolved.point.known  # noqa: B018 - says what is missing
    groups = []
    n_forced = resolved.forced.shape[1]
    for at in range(max(map(len, resolved.all_numbers(n_forced)))):
        single = resolved.one(at)
        names = {int(number) for numbers in single.all_numbers(n_forced) for number in numbers}
        groups.append(_group(str(names.pop()) if len(names) == 1 else f"{rule.of}[{at}]", single))
    return groups


def groups_of(batch: MultimodalBatch, nodes: Iterable[Node], positions: Groups | None) -> dict[str, list[Group]]:
    """The groups of each point by its name; the same groups everywhere.

    Args:
        batch: whose rows are meant.
        nodes: the points.
        positions: what the caller asked for; None for the default.

    Raises:
        InputError: if points live on sequences of different lengths, so that positions do not correspond; in a dual encoder's
            text tower, if texts are no samples' own.
    """
    nodes = list(nodes)
    require_own_rows(batch, nodes)
    rules = default_groups(batch, nodes) if positions is None else positions
    by_sequence: dict[object, list[Group]] = {}
    found = {}
    for node in nodes:
        place = (node.part, node.sequence, node.axes)
        if place not in by_sequence:
            by_sequence[place] = groups_on(batch, node, rules)
        found[node.name] = by_sequence[place]
    if len({tuple(group.name for group in groups) for groups in found.values()}) > 1:
        sequences = dict.fromkeys(node.sequence for node in nodes)
        raise InputError(
            f"The points lie on the sequences {', '.join(sequences)}, whose positions do not correspond one by one; sweep them "
            "in separate calls, or name rules that hold on each: positions='image', mm.positions.box(...)."
        )
    return found
