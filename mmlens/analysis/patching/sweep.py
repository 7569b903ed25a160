"""`patch`: every point at every group of positions, one at a time, in runs that compute only what a patch can reach.

Denoising: the corrupted run gets clean activations; what brings the clean answer back carries it. Noising is the reverse.

Source: Meng et al., "Locating and Editing Factual Associations in GPT", NeurIPS 2022
(https://arxiv.org/abs/2202.05262); Zhang and Nanda, "Towards Best Practices of Activation Patching", ICLR 2024
(https://arxiv.org/abs/2309.16042).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from mmlens.analysis.metrics import MetricLike, readings
from mmlens.analysis.patching.filling import Place, fill
from mmlens.analysis.patching.groups import Group
from mmlens.analysis.patching.result import PatchSweep, summed
from mmlens.analysis.patching.run_pairs import Direction, RunPair
from mmlens.analysis.patching.units import SweptUnits, Target, targets
from mmlens.core.checkpoint import Checkpoint
from mmlens.core.contract import checked
from mmlens.core.errors import InputError
from mmlens.core.kinds import Count, PathLike, Positive
from mmlens.core.rule_groups import Groups
from mmlens.execution import Cell, Change, CleanRun, activation_rows
from mmlens.hooks.nodes import Points
from mmlens.inputs.batch import BatchLike, MultimodalBatch
from mmlens.models.hooked import HookedMultimodal
from mmlens.models.identity import run_identity


@checked
@torch.no_grad()
def patch(
    model: HookedMultimodal,
    clean: BatchLike,
    corrupted: BatchLike,
    *,
    metric: MetricLike,
    at: Points | None = None,
    units: SweptUnits = None,
    joint: bool = False,
    positions: Groups | None = None,
    direction: Direction = "denoise",
    window: Count = 1,
    budget: Positive | None = None,
    checkpoint: PathLike | None = None,
    progress: bool = True,
) -> PatchSweep:
    """Patch every point at every group of positions, one at a time.

    Args:
        model: the hooked model.
        clean: the run with the answer.
        corrupted: the run without; the same layout (see `mm.corrupt`).
        metric: of `mm.metrics`, or any function of logits `[batch vocab]` at the predicting position to `[batch]`.
        at: points, e.g. `"blocks.*.hook_resid_pre"`, `"vision.blocks.*.hook_mlp_out"`, `"projector.hook_out"`.
        units: patch single units of each point: `"head"` or `"neuron"` for all of them, or a list of neurons and heads (then
            `at` may be left out). At `hook_q`, `hook_k`, `hook_v`, scores and patterns a head means its part there.
        joint: patch all units together, as one row.
        positions: groups (see `mm.positions`): rules, or rules by name, `mm.positions.grid(k)` for blocks of the picture, or
            `"each"` position; they are those of the clean batch. By default picture, text and last position at points of the
            prompt, and all rows where there are others. At scores and patterns: the queries. A sample in which a rule names
            nothing stays unpatched there.
        direction: `"denoise"` puts clean activations into the corrupted run, `"noise"` the reverse.
        window: how many neighbouring layers of each kind of point are patched together, of those that `at` names.
        budget: memory for activations of the patched runs, in MiB; chosen by default.
        checkpoint: a file that keeps finished cells; an interrupted sweep that is called again goes on from there.
        progress: show a progress bar.

    Returns:
        One value per point, group and sample, beside both unpatched runs.

    Raises:
        InputError: if the layouts differ (the message says where), positions or units do not exist, the metric does not
            give one value per sample, or the checkpoint is of another sweep; before any forward pass.

    Example:
        >>> import mmlens as mm
        >>> corrupted = mm.corrupt.blur(model, batch)
        >>> sweep = patch(
        ...     model, batch, corrupted, at="blocks.*.hook_resid_pre", positions=["image", "last"],
        ...     metric=mm.metrics.log_probability(5), progress=False,
        ... )
        >>> sweep.values.shape == (model.cfg.n_layers, 2, 1)
        True
    """
    pair = RunPair.of(model, clean, corrupted, metric, at, units, positions, direction)
    if joint and (units is None or window > 1):
        raise InputError("joint=True patches units together: name them with units=..., and leave window=1.")
    groups = pair.groups()
    cells = Checkpoint(
        checkpoint,
        "sweep",
        lambda exact: run_identity(
            model,
            exact,
            the_clean_batch=clean,
            the_corrupted_batch=corrupted,
            points=([(node.name, units) for node, units in pair.selection], window, joint),
            positions={node: [(group.name, group.rows) for group in groups[node]] for node in groups},
            metric=metric,
            direction=direction,
        ),
    )
    sweeps = []
    for number, reading in enumerate(readings(metric, model, clean.size, clean=clean)):
        source, target, groups = pair.behind(reading)
        source_logits, cache = model.run_with_cache(source, names=[node.name for node in pair.nodes])
        run = CleanRun(model, target, n_rows=reading.n_rows)
        ends = (reading.rows(model, source_logits, source), run.clean_logits)
        reading = reading.against(pair.swap(*ends)[0])
        rows = targets(model, pair.selection, cache.cache_dict, window=window, joint=joint)
        grid = _Grid(source, cache.cache_dict, rows, groups)
        name = f"values {number}" if number else "values"
        shape = (len(rows), len(next(iter(groups.values()))))
        plan = fill(cells, run, shape, grid.cell, reading, desc="patch", name=name, budget=budget, progress=progress)
        values = (reading.values(ends[0]), reading.values(ends[1]))
        sweeps.append(pair.sweep(cells.tensors[name], rows, groups, values, plan=plan, identity=cells.identity))
    return summed(sweeps)


@dataclass(frozen=True)
class _Grid:
    """The cells of a sweep.

    Attributes:
        source: the batch whose activations are put in.
        activations: these, by point.
        points: rows of the grid.
        groups: columns of the grid, by point.
    """

    source: MultimodalBatch
    activations: dict[str, torch.Tensor]
    points: list[Target]
    groups: dict[str, list[Group]]

    def cell(self, place: Place, sample: int) -> Cell | None:
        """The patch of one point at one group in one sample; None where the group has no rows there."""
        i, j = place
        changes = []
        for target in self.points[i].together:
            for node in target.nodes:
                rows = self.groups[node.name][j].rows[sample]
                if rows is not None and not len(rows):
                    return None
                read = partial(activation_rows, self.activations[node.name], node, self.source, sample, rows)
                changes.append(Change(node.name, rows, partial(_put, target, read)))
        return Cell(sample, tuple(changes))


def _put(target: Target, read: Callable[[], torch.Tensor], old: torch.Tensor) -> torch.Tensor:
    return target.put(old, read())
