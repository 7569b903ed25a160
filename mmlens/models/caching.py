"""Recording activations into a cache: which points, and which rows of each."""

from collections.abc import Sequence

import torch

from mmlens.core.units import Positions
from mmlens.hooks.cache import ActivationCache, RowPicker, gather_rows, record
from mmlens.hooks.nodes import Node
from mmlens.hooks.session import HookPair
from mmlens.inputs.layout import TokenLayout

#: Rows that a position rule means, by sequence, its length and device: worked out once, not at each point.
_KnownRows = dict[tuple[str, int, torch.device], torch.Tensor]


class Recorder:
    """Keeps the activations of one run.

    Args:
        nodes: which points.
        layout: of the batch that runs; None for all positions.
        positions: which positions are kept.
        device: where they are kept; None for where they are.

    Raises:
        InputError: for positions out of range or that samples do not share, where the sequence's length is known.
    """

    def __init__(
        self,
        nodes: Sequence[Node],
        layout: TokenLayout | None,
        positions: Positions,
        device: torch.device | str | None,
    ):
        self.nodes = nodes
        self.positions = None if layout is None else str(positions)
        self._store: dict[str, torch.Tensor] = {}
        known: _KnownRows = {}
        self.hooks: list[HookPair] = [
            (
                node.name,
                record(self._store, None if layout is None else _picker(node, layout, positions, known), device),
            )
            for node in nodes
        ]

    def cache(self, model: object) -> ActivationCache:
        """The cache, once the run is over."""
        ordered = {node.name: self._store[node.name] for node in self.nodes if node.name in self._store}
        axes = {node.name: node.axes for node in self.nodes}
        return ActivationCache(ordered, model, axes=axes, positions=self.positions)


def _picker(node: Node, layout: TokenLayout, positions: Positions, known: _KnownRows) -> RowPicker:
    """Cuts a point's tensor down to the wanted positions; checks them now where the length is known."""

    def rows(length: int, device: torch.device) -> torch.Tensor:
        key = (node.sequence, length, device)
        if key not in known:
            known[key] = layout.rows(positions, node.sequence, length).to(device)
        return known[key]

    length = layout.length(node.sequence)
    if length is not None:
        rows(length, torch.device("cpu"))

    def pick(activation: torch.Tensor) -> torch.Tensor:
        return gather_rows(activation, node.axes, rows(activation.shape[node.position_axis], activation.device))

    return pick
