"""`RunPair`: what sweeps over two runs share, whether they run every cell, estimate it, or follow paths."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, TypeVar

import torch

from mmlens.analysis.metrics import MetricLike, MetricReading, as_forced, metric_name
from mmlens.analysis.patching.groups import Group, groups_of
from mmlens.analysis.patching.result import PatchSweep
from mmlens.analysis.patching.units import Chosen, SweptUnits, Target, select_points
from mmlens.core.rule_groups import Groups
from mmlens.hooks.nodes import Node, Points
from mmlens.inputs.batch import BatchLike, MultimodalBatch
from mmlens.interventions.pairs import require_same_layout
from mmlens.models.hooked import HookedMultimodal

Direction: TypeAlias = Literal["denoise", "noise"]
T = TypeVar("T")


@dataclass(frozen=True)
class RunPair:
    """A clean and a corrupted run of one layout, of which one gives activations and the other takes them.

    Attributes:
        model: the hooked model.
        clean, corrupted: the batches.
        metric: what is read of the run that takes them.
        selection: the points, and the units of each.
        positions: groups of positions; those of the clean batch.
        direction: `"denoise"` puts clean activations into the corrupted run, `"noise"` the reverse.
    """

    model: HookedMultimodal
    clean: MultimodalBatch
    corrupted: MultimodalBatch
    metric: MetricLike
    selection: list[Chosen]
    positions: Groups | None
    direction: Direction

    @classmethod
    def of(
        cls, model: HookedMultimodal, clean: BatchLike, corrupted: BatchLike, metric: MetricLike,
        at: Points | None, units: SweptUnits, positions: Groups | None, direction: Direction,
    ) -> "RunPair":  # fmt: skip
        """That of two batches, once their layouts are the same and the points exist."""
        require_same_layout(clean, corrupted)
        return cls(model, clean, corrupted, metric, select_points(model, at, units), positions, direction)

    @property
    def nodes(self) -> list[Node]:
        """The points."""
        return [node for node, _ in self.selection]

    def groups(self) -> dict[str, list[Group]]:
        """The groups of positions at each point; refuses those that do not exist."""
        return groups_of(as_forced(self.metric, self.model, self.clean), self.nodes, self.positions)

    def swap(self, first: T, second: T) -> tuple[T, T]:
        """Of (clean, corrupted) the one that gives and the one that takes; and of these (clean, corrupted) again."""
        return (first, second) if self.direction == "denoise" else (second, first)

    def behind(self, reading: MetricReading) -> tuple[MultimodalBatch, MultimodalBatch, dict[str, list[Group]]]:
        """The batch that gives, the one that takes, and the groups, behind the tokens that a reading forces."""
        clean, corrupted = (reading.behind(self.model, batch) for batch in (self.clean, self.corrupted))
        return *self.swap(clean, corrupted), groups_of(clean, self.nodes, self.positions)

    def sweep(
        self,
        values: torch.Tensor,
        rows: Sequence[Target],
        groups: Mapping[str, Sequence[Group]],
        ends: tuple[torch.Tensor, torch.Tensor],
        **about: Any,
    ) -> PatchSweep:
        """The sweep of values `[point group sample]`.

        Args:
            values: after each patch.
            rows: what each row patches.
            groups: the columns, by point.
            ends: the values of the run that gives and of the one that takes, without a patch.
            about: what else a sweep says of itself.
        """
        first = next(iter(groups.values()))
        clean, corrupted = self.swap(*(end.cpu() for end in ends))
        return PatchSweep(
            values=values,
            points=[row.name for row in rows],
            groups=[group.name for group in first],
            clean=clean,
            corrupted=corrupted,
            direction=self.direction,
            metric=metric_name(self.metric),
            row_units=tuple(row.units for row in rows),
            boxes=tuple(group.boxes for group in first),
            **about,
        )
