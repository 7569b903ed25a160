"""Estimated effects of patching groups of rows at one point, from what each of its entries contributes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float

from mmlens.analysis.attribution.softmax import PatternEffect
from mmlens.analysis.patching.groups import Group
from mmlens.core.axes import UNIT_AXES, unit_axis
from mmlens.execution import activation_rows
from mmlens.hooks.nodes import Node
from mmlens.inputs.batch import MultimodalBatch


class PointEffects(Protocol):
    """What patches of one point do to the metric."""

    def of_groups(
        self, node: Node, groups: Sequence[Group], batch: MultimodalBatch
    ) -> Float[torch.Tensor, "unit group sample"]:
        """The effect of patching each group of rows, with all heads or neurons apart; one unit where the point has none."""


@dataclass(frozen=True)
class EntryEffects:
    """Effects that add up over a point's entries.

    Attributes:
        values: of every entry, in the shape of the activation.
    """

    values: torch.Tensor

    def of_groups(
        self, node: Node, groups: Sequence[Group], batch: MultimodalBatch
    ) -> Float[torch.Tensor, "unit group sample"]:
        """Sums over each group's rows."""
        words = node.axes.split()
        axis = unit_axis(node.axes) - len(words) if {*UNIT_AXES} & {*words} else None
        sums = []
        for group in groups:
            for sample, rows in enumerate(group.rows):
                piece = activation_rows(self.values, node, batch, sample, rows)
                piece = piece.flatten()[:, None] if axis is None else piece.movedim(axis, -1)
                sums.append(piece.reshape(-1, piece.shape[-1]).sum(0))
        return torch.stack(sums, dim=-1).unflatten(-1, (len(groups), batch.size))


@dataclass(frozen=True)
class KeyEffects:
    """Effects of patching keys, which meet in the softmax, so that every group is computed by itself.

    Attributes:
        pattern: what patches of keys do to the attention pattern.
        keys: the point's activation; grouped heads have one key for several queries.
    """

    pattern: PatternEffect
    keys: torch.Tensor

    def of_groups(
        self, node: Node, groups: Sequence[Group], batch: MultimodalBatch
    ) -> Float[torch.Tensor, "unit group sample"]:
        """The effect of each group of keys."""
        heads, key_heads = self.pattern.scores.shape[-3], self.keys.shape[-2]
        number = torch.arange(self.keys[..., 0, 0].numel()).reshape(self.keys.shape[:-2])  # of each row of keys
        effects = []
        for group in groups:
            for sample, rows in enumerate(group.rows):
                mask = torch.zeros(number.numel(), dtype=torch.bool)
                mask[activation_rows(number[..., None, None], node, batch, sample, rows).flatten()] = True
                per_head = self.pattern.of_keys(mask.reshape(number.shape)).reshape(-1, key_heads, heads // key_heads)
                effects.append(per_head.sum((0, 2)))
        return torch.stack(effects, dim=-1).unflatten(-1, (len(groups), batch.size))
