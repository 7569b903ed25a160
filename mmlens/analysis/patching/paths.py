"""Path patching: what a sender does to the answer by way of given receivers alone.

Three runs for each sender:

1. the corrupted one, for the sender's activations;
2. the clean one with these put in at the sender, and every branch between sender and receivers held at its clean output, so that
   the change reaches the receivers along the residual stream alone; what the receivers then hold is kept;
3. the clean one with what was kept put in at the receivers, all else running free: its metric is the effect.

With MLPs left free (`freeze="attention"`) a path may also lead through them. Sender and receivers are any hook points, in any
tower; between vision encoder and language model the projector is part of the path.

Source: Wang et al., "Interpretability in the Wild", ICLR 2023 (https://arxiv.org/abs/2211.00593), section 3.1 (there MLPs are
free); Goldowsky-Dill et al., "Localizing Model Behavior with Path Patching", 2023 (https://arxiv.org/abs/2304.05969).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import torch

from mmlens.analysis.metrics import MetricLike, MetricReading, readings
from mmlens.analysis.patching.groups import Group, groups_on
from mmlens.analysis.patching.path_points import Freeze, points_between, receiver_of
from mmlens.analysis.patching.result import PatchSweep, summed
from mmlens.analysis.patching.run_pairs import Direction, RunPair
from mmlens.analysis.patching.units import SweptUnits, Target, targets
from mmlens.core.axes import unit_axis
from mmlens.core.contract import checked, checked_result
from mmlens.core.errors import InputError
from mmlens.core.kinds import Several
from mmlens.core.progress import ProgressBar
from mmlens.core.rule_groups import Groups
from mmlens.core.rules import Positions
from mmlens.core.saved import Saved
from mmlens.core.view import Viewable
from mmlens.execution import activation_rows
from mmlens.execution.cells import Cell, Change
from mmlens.execution.whole import hooks_for
from mmlens.hooks.cache import record_activations
from mmlens.hooks.nodes import Points
from mmlens.hooks.session import HookPair
from mmlens.inputs.batch import BatchLike, MultimodalBatch
from mmlens.models.hooked import HookedMultimodal

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure, SubFigure


@checked_result
@dataclass(frozen=True)
class PathSweep(Viewable, Saved):
    """The effects of senders by way of receivers.

    Attributes:
        sweep: one value per sender, group of positions and sample, with everything that a `PatchSweep` can do.
        receivers: hook names, with the unit behind them where one was named.
        freeze: `"branches"` or `"attention"`.
        frozen: per sender, the points that were held at their clean output in between.
    """

    sweep: PatchSweep
    receivers: list[str]
    freeze: str
    frozen: dict[str, list[str]] = field(repr=False)

    def __repr__(self) -> str:
        best = "; ".join(map(str, self.sweep.cells(3)))
        return f"PathSweep(to {', '.join(self.receivers)}, {self.freeze} frozen: {self.sweep!r}; largest: {best})"

    @property
    def effect(self) -> torch.Tensor:
        """What each sender changes by way of the receivers, `[sender group sample]`, in the metric's unit."""
        return self.sweep.effect

    @checked
    def plot(self, *, figure: "Figure | SubFigure | None" = None) -> "Figure":
        """The effects of senders by group of positions.

        Args:
            figure: a matplotlib figure or subfigure to draw into; a new one by default.
        """
        return self.sweep.plot(figure=figure)

    def to_frame(self) -> "pd.DataFrame":
        """The frame of its sweep, one row per sender and group, with the receivers beside them."""
        return self.sweep.to_frame().assign(receivers=", ".join(self.receivers))


@checked
@torch.no_grad()
def path_patch(
    model: HookedMultimodal,
    clean: BatchLike,
    corrupted: BatchLike,
    *,
    metric: MetricLike,
    to: str | Several[str],
    at: Points | None = None,
    units: SweptUnits = None,
    positions: Groups = ("all",),
    to_positions: Positions = "all",
    freeze: Freeze = "branches",
    direction: Direction = "noise",
    progress: bool = True,
) -> PathSweep:
    """Patch the path from each sender to the receivers.

    Args:
        model: the hooked model.
        clean, corrupted, metric: as for `mm.patch`.
        to: the receivers: hook names, with a head or neuron behind them if one is meant, e.g. `"blocks.3.attn.hook_q[h2]"`,
            `"blocks.4.mlp.hook_pre"`, `"projector.hook_in"`, `"hook_logits"`.
        at, units: the senders, one at a time, as for `mm.patch`.
        positions: groups of the senders' positions, patched one at a time; all positions together by default.
        to_positions: at which positions the receivers are changed.
        freeze: `"branches"` holds every attention and MLP branch in between, `"attention"` leaves MLPs free.
        direction: `"noise"` puts the corrupted sender into the clean run, `"denoise"` the reverse.
        progress: show a progress bar.

    Returns:
        The effects as a sweep, with what was frozen.

    Raises:
        InputError: as for `mm.patch`; and where no path leads from a sender to a receiver, or none but through a branch that
            is held (from what cross-attention looks at, receivers are its keys and values).

    Example:
        >>> import mmlens as mm
        >>> paths = path_patch(
        ...     model, batch, mm.corrupt.blur(model, batch), at="blocks.1.attn.hook_z", units="head", to="hook_logits",
        ...     metric=mm.metrics.log_probability(5), progress=False,
        ... )
        >>> paths.effect.shape == (model.cfg.n_heads, 1, 1)
        True
    """
    pair = RunPair.of(model, clean, corrupted, metric, at, units, positions, direction)
    receivers = [receiver_of(model, name) for name in ([to] if isinstance(to, str) else to)]
    freeze_points = {node.name: points_between(model.graph, node, receivers, freeze) for node in pair.nodes}
    all_names = list(dict.fromkeys([*(name for names in freeze_points.values() for name in names), *freeze_points]))
    pair.groups()  # what cannot be is refused before anything runs
    sweeps = []
    for reading in readings(metric, model, clean.size, clean=clean):
        source, base, groups = pair.behind(reading)
        where = [
            groups_on(pair.swap(source, base)[0], receiver.node, {"to": to_positions})[0] for receiver in receivers
        ]
        base_logits, cache = model.run_with_cache(base, names=all_names)
        source_logits, other = model.run_with_cache(source, names=list(freeze_points))
        ends = (reading.rows(model, source_logits, source), reading.rows(model, base_logits, base))
        reading = reading.against(pair.swap(*ends)[0])
        run = _Paths(model, base, cache.cache_dict, receivers, where, reading)
        senders = targets(model, pair.selection, other.cache_dict)
        values = torch.zeros(len(senders), len(next(iter(groups.values()))), clean.size)
        with ProgressBar(total=values[..., 0].numel(), desc="paths", disable=not progress) as bar:
            for i, sender in enumerate(senders):
                name = sender.node.name
                for j, group in enumerate(groups[name]):
                    values[i, j] = run.effect(sender, group, other[name], freeze_points[name]).cpu()
                    bar.update()
        sweeps.append(pair.sweep(values, senders, groups, (reading.values(ends[0]), reading.values(ends[1]))))
    return PathSweep(summed(sweeps), [receiver.name for receiver in receivers], freeze, freeze_points)


@dataclass(frozen=True)
class _Paths:
    """The run that is patched.

    Attributes:
        model: the hooked model.
        base: the batch.
        own: its activations at frozen points and senders.
        receivers: the receivers.
        where: the rows of each receiver that are changed.
        reading: what is read of it.
    """

    model: HookedMultimodal
    base: MultimodalBatch
    own: dict[str, torch.Tensor]
    receivers: list[Target]
    where: list[Group]
    reading: MetricReading

    def effect(self, sender: Target, group: Group, values: torch.Tensor, freeze: Sequence[str]) -> torch.Tensor:
        """The metric after the patch, `[sample]`.

        Args:
            sender: the sender.
            group: the rows of it that are changed.
            values: the other run's activation of it.
            freeze: the branches that are held.
        """
        activations: dict[str, torch.Tensor] = {}
        names = [receiver.node.name for receiver in self.receivers]
        pairs: list[HookPair] = [
            *self._hooks([(sender, group, values)]),
            *((name, partial(_hold, self.own[name])) for name in freeze),
            (list(dict.fromkeys(names)), record_activations(activations, None, None)),
        ]
        self.model.run_with_hooks(self.base, fwd_hooks=pairs)
        self._require_units(activations)
        puts = [(r, g, activations[r.node.name]) for r, g in zip(self.receivers, self.where, strict=True)]
        logits = self.model.run_with_hooks(self.base, fwd_hooks=self._hooks(puts))
        return self.reading.of_run(self.model, logits, self.base)

    def _require_units(self, activations: dict[str, torch.Tensor]) -> None:
        """Refuse receivers whose unit the point does not have; how many heads it has, a run tells."""
        for receiver in self.receivers:
            if receiver.indices is not None:
                count = activations[receiver.node.name].shape[unit_axis(receiver.node.axes)]
                if receiver.indices[0] >= count:
                    raise InputError(
                        f"{receiver.node.name} has {count} heads or neurons; there is no {receiver.indices[0]}."
                    )

    def _hooks(self, puts: Sequence[tuple[Target, Group, torch.Tensor]]) -> list[HookPair]:
        """Hooks that put values in at the rows of each sample."""
        cells = []
        for sample in range(self.base.size):
            changes = [
                Change(target.node.name, rows, self._put(target, values, sample, rows))
                for target, group, values in puts
                if (rows := group.rows[sample]) is None or len(rows)
            ]
            if changes:
                cells.append(Cell(sample, tuple(changes)))
        return hooks_for(self.model, self.base, cells)

    def _put(
        self, target: Target, values: torch.Tensor, sample: int, rows: torch.Tensor | None
    ) -> Callable[[torch.Tensor], torch.Tensor]:
        return lambda old: target.put(old, activation_rows(values, target.node, self.base, sample, rows))


def _hold(value: torch.Tensor, activation: torch.Tensor, hook: object) -> torch.Tensor:
    """A hook that puts the run's own, unpatched activation in."""
    return value
