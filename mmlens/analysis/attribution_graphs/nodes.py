"""Nodes of an attribution graph: features and errors at rows, patches and words as sources, logits."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch

from mmlens.core.axes import batch_axis
from mmlens.core.errors import InputError
from mmlens.core.names import HookName
from mmlens.core.rules import Rule
from mmlens.core.units import Feature, block_name
from mmlens.hooks.nodes import Node
from mmlens.inputs.batch import MultimodalBatch
from mmlens.inputs.point_rows import entry_rows, place_part
from mmlens.inputs.positions import resolve
from mmlens.models.hooked import HookedMultimodal

NodeKind: TypeAlias = Literal["feature", "error", "source", "logit"]
Box: TypeAlias = tuple[float, float, float, float]


@dataclass(frozen=True)
class GraphNode:
    """A node of an attribution graph.

    Attributes:
        kind: a feature at a row; what features do not write there; what enters the model; a logit.
        name: unique in the graph: `L3.hook_mlp_out.f27@12`.
        at: the point that it writes, or that it is read from.
        rows: its rows there; several where sources are pooled.
        text: what stands at the row: a token, or a patch.
        feature: the number of a feature.
        token: the id of a logit's token, or of a text row's.
        value: the code of a feature; a logit less the mean of all; None for others.
        box: in pixels of the picture (left, top, right, bottom).
        image: which picture.
    """

    kind: NodeKind
    name: str
    at: str
    rows: tuple[int, ...]
    text: str
    feature: int | None = None
    token: int | None = None
    value: float | None = None
    box: Box | None = None
    image: int | None = None

    @property
    def unit(self) -> Feature | None:
        """The feature as a unit, at whatever row."""
        return None if self.feature is None else Feature.at(f"{self.at}.{Feature.point}", self.feature)

    @property
    def layer(self) -> int | None:
        """The block that it is in."""
        return HookName.parse(self.at).layer


@dataclass(frozen=True)
class _Row:
    text: str
    token: int | None = None
    box: Box | None = None
    image: int | None = None


class Rows:
    """What stands at the rows of points.

    Args:
        model: the hooked model.
        batch: one sample.
    """

    def __init__(self, model: HookedMultimodal, batch: MultimodalBatch):
        self.model, self.batch = model, batch
        self._known: dict[tuple[str, torch.Size], dict[int, _Row]] = {}

    def node(
        self,
        kind: NodeKind,
        at: Node,
        shape: torch.Size,
        row: int,
        feature: int | None = None,
        value: float | None = None,
    ) -> GraphNode:
        """A node at a row of a point, whose tensor has a shape."""
        there = self._at(at, shape)[row]
        if feature is not None:
            place = str(Feature.at(f"{at.name}.{Feature.point}", feature))
        elif kind == "error":
            hook = HookName.parse(at.name)
            place = f"{block_name(hook.part, hook.stack or '', hook.layer or 0)}.{hook.rest}.error"
        else:
            place = at.name
        return GraphNode(
            kind, f"{place}@{row}", at.name, (row,), there.text, feature, there.token, value, there.box, there.image
        )

    def _at(self, at: Node, shape: torch.Size) -> dict[int, _Row]:
        key = (at.sequence, shape[:-1])
        if key not in self._known:
            count = shape[: -2 if "head" in at.axes.split() else -1].numel()
            rows = {row: _Row(f"{_NAMES.get(at.sequence, 'row')} {row}") for row in range(count)}
            self._known[key] = rows | self._words(at) | self._patches(at, shape)
        return self._known[key]

    def _words(self, at: Node) -> dict[int, _Row]:
        """Tokens by row, of sequences of tokens."""
        name = {"language": "input_ids", "decoder": "decoder_input_ids"}.get(at.sequence)
        ids = self.batch.inputs.get(name) if name else None
        if ids is None:
            return {}
        words = [f"#{i}" for i in ids[0].tolist()] if self.model.processor is None else self.model.to_str_tokens(ids)
        return {row: _Row(word, int(token)) for row, (word, token) in enumerate(zip(words, ids[0], strict=True))}

    def _patches(self, at: Node, shape: torch.Size) -> dict[int, _Row]:
        """Patches by row, of sequences whose rows lie in a picture."""
        part, places = place_part(at.sequence), self.batch.layout.places
        rows: dict[int, _Row] = {}
        is_packed = batch_axis(at.axes) is None
        has_several = len({place.image for place in places}) > 1
        for place in places if part is not None else ():
            frame = "" if not place.frames else f"frame {', '.join(map(str, place.frames))} "
            where = f"picture {place.image} " * has_several + frame
            for view, grid in enumerate(place.views(part)) if part is not None else ():
                tile = f"view {view} " * (len(place.views(part)) > 1) if part is not None else ""
                for (entry, row), box, cell in zip(
                    entry_rows(grid, is_packed=is_packed).tolist(),
                    grid.boxes.tolist(),
                    grid.cells.tolist(),
                    strict=True,
                ):
                    flat = row if is_packed else entry * shape[1] + row
                    text = f"{where}{tile}patch {cell[0]},{cell[1]}"
                    left, top, right, bottom = map(float, box)
                    rows[flat] = _Row(text, None, (left, top, right, bottom), place.image)
        return rows


_NAMES = {"language": "image row", "vision": "tower row", "projector": "projected row", "queries": "query"}


def pooled(
    nodes: Sequence[GraphNode],
    groups: Mapping[str, Rule],
    batch: MultimodalBatch,
    points: Mapping[str, tuple[Node, torch.Size]],
) -> tuple[list[GraphNode], list[int]]:
    """Sources pooled by group, and the number of each old one's new one.

    Args:
        nodes: the sources.
        groups: position rules by name; a row belongs to the last group that names it, rows that none names stay alone.
        batch: one sample.
        points: of the sources, with the shapes of their tensors.

    Raises:
        InputError: for a group without rows, or whose rows later groups name.
    """
    owner: dict[tuple[str, int], str] = {}
    for name, rule in groups.items():
        problems, count = [], 0
        for point, (node, shape) in points.items():
            try:
                rows = resolve(rule, batch, node, shape).mask
            except InputError as error:  # a rule of words means nothing where there are only patches
                problems.append(str(error))
                continue
            flat = rows.flatten().nonzero().flatten().tolist()
            count += len(flat)
            owner |= {(point, row): name for row in flat}
        if not count:
            raise InputError(
                f"The group {name!r} holds no source: {'; '.join(problems).rstrip('.') or 'it names no row'}."
            )
    empty = [name for name in groups if name not in owner.values()]
    if empty:
        raise InputError(
            f"The groups {', '.join(empty)} hold no source: later groups name all their rows, and a row belongs to the last "
            "group that names it; put the wider group first."
        )
    names = [owner.get((source.at, source.rows[0]), source.name) for source in nodes]
    members: dict[str, list[GraphNode]] = {}
    for name, source in zip(names, nodes, strict=True):
        members.setdefault(name, []).append(source)
    numbers = {name: number for number, name in enumerate(members)}
    order = [numbers[name] for name in names]
    return [_joined(name, group) if name in groups else group[0] for name, group in members.items()], order


def _joined(name: str, nodes: Sequence[GraphNode]) -> GraphNode:
    boxes = torch.tensor([node.box for node in nodes if node.box is not None])
    outer_box = (*boxes[:, :2].min(0).values.tolist(), *boxes[:, 2:].max(0).values.tolist()) if len(boxes) else None
    rows = tuple(row for node in nodes for row in node.rows)
    return GraphNode("source", name, nodes[0].at, rows, name, box=outer_box, image=nodes[0].image)
