"""Reads, in one run, the rows that a rule means at each point: resolved once per sequence, before the run where it can be."""

from collections.abc import Callable, Iterable
from contextlib import suppress

import torch
from jaxtyping import Shaped

from mmlens.core.axes import batch_axis
from mmlens.core.rules import Rule
from mmlens.hooks.cache import gather_samples
from mmlens.hooks.nodes import Node
from mmlens.inputs.batch import MultimodalBatch
from mmlens.inputs.point_rows import GROWING, UnknownRowsError
from mmlens.inputs.positions import ResolvedPositions, resolve


def sample_axes(axes: str) -> str:
    """The axis words of a point's rows once they are kept by sample."""
    return axes if "batch" in axes.split() else f"batch {axes}"


class RowReader:
    """Reads the rows of a rule from activations.

    Args:
        rule: the rule.
        batch: what runs.
        nodes: the points.
        required: whether the rule must mean something in some sample.

    Attributes:
        resolved: what the rule means at the points that were read, by hook name.

    Raises:
        InputError: if the rule means nothing at a point, as far as that is known before the run.
    """

    def __init__(self, rule: Rule, batch: MultimodalBatch, nodes: Iterable[Node], *, required: bool = True):
        self.rule = rule
        self.batch = batch
        self.resolved: dict[str, ResolvedPositions] = {}
        self._required = required
        self._known: dict[tuple[object, ...], ResolvedPositions] = {}
        for node in nodes:
            with suppress(UnknownRowsError):
                self.rows_at(node, None)

    @property
    def counts(self) -> dict[str, list[int]]:
        """By hook name, how many rows of each sample were read."""
        return {name: list(map(len, resolution.rows)) for name, resolution in self.resolved.items()}

    def rows_at(self, node: Node, shape: torch.Size | None) -> ResolvedPositions:
        """What the rule means at a point, given the shape of its tensor in the run."""
        shape = None if node.sequence in GROWING else shape
        size = None if shape is None else (shape[0], shape[node.position_axis])
        key = (node.part, node.sequence, node.axes, size)
        if key not in self._known:
            self._known[key] = resolve(self.rule, self.batch, node, shape, required=self._required)
        return self._known[key]

    def by_sample(self, node: Node, activation: torch.Tensor) -> torch.Tensor:
        """The rows of each sample, `[batch ... row ...]`; see `gather_samples`."""
        self.resolved[node.name] = self.rows_at(node, activation.shape)
        return gather_samples(activation, node.axes, self.resolved[node.name].rows)

    def flat(self, node: Node, activation: torch.Tensor) -> Shaped[torch.Tensor, "row ..."]:
        """The rows of all samples, one after the other."""
        self.resolved[node.name] = self.rows_at(node, activation.shape)
        index = torch.cat(self.resolved[node.name].rows).to(activation.device)
        if batch_axis(node.axes) is None:
            return activation.movedim(node.position_axis, 0)[index[:, 1]]
        return activation.movedim(node.position_axis, 1)[index[:, 0], index[:, 1]]

    def picker(self, node: Node) -> Callable[[torch.Tensor], torch.Tensor]:
        """From a point's activation to the rows that are meant, by sample."""
        return lambda activation: self.by_sample(node, activation)
