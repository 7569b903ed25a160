"""`attribute`: a patching sweep estimated from gradients, at the cost of a few runs in place of one per cell."""

from collections.abc import Mapping, Sequence
from functools import partial

import torch

from mmlens.analysis.attribution.gradients import require_own_texts
from mmlens.analysis.attribution.method import Estimate, PatchedRun
from mmlens.analysis.attribution.methods import ATTRIBUTION_METHODS, AttributionChoice
from mmlens.analysis.metrics import MetricLike, readings
from mmlens.analysis.patching.groups import Group
from mmlens.analysis.patching.result import PatchSweep, summed
from mmlens.analysis.patching.run_pairs import Direction, RunPair
from mmlens.analysis.patching.units import SweptUnits, targets
from mmlens.core.checkpoint import Checkpoint
from mmlens.core.contract import checked
from mmlens.core.identity import identity_of
from mmlens.core.kinds import PathLike
from mmlens.core.rule_groups import Groups
from mmlens.core.shares import shared_tensors
from mmlens.hooks.nodes import Points
from mmlens.inputs.batch import BatchLike, MultimodalBatch
from mmlens.models.hooked import HookedMultimodal
from mmlens.models.identity import run_identity
from mmlens.models.processes import process_of


@checked
@torch.no_grad()
def attribute(
    model: HookedMultimodal,
    clean: BatchLike,
    corrupted: BatchLike,
    *,
    metric: MetricLike,
    at: Points | None = None,
    units: SweptUnits = None,
    positions: Groups | None = None,
    direction: Direction = "denoise",
    method: AttributionChoice = "atp",
    checkpoint: PathLike | None = None,
    progress: bool = True,
) -> PatchSweep:
    """Estimate what `mm.patch` would find, for all cells at once.

    Args:
        model: the hooked model.
        clean, corrupted, metric, at, units, positions, direction: as for `mm.patch`.
        method: `"atp"` (gradients of the patched run) or `"ig"` (mean gradients between the two runs' activations), or
            settings: `mm.patching.IntegratedGradients(steps=50)`. docs/methods.md lists them.
        checkpoint: a file that keeps finished points, for methods with runs for each of them; the same call goes on from it.
        progress: show a progress bar.

    Returns:
        A sweep like that of `mm.patch`, whose `method` says that it is approximate.

    Raises:
        InputError: as for `mm.patch`, for a metric without a gradient, and for an unknown method; before any forward pass.

    Example:
        >>> import mmlens as mm
        >>> corrupted = mm.corrupt.blur(model, batch)
        >>> metric = mm.metrics.log_probability(5)
        >>> attribute(model, batch, corrupted, at="blocks.*.hook_resid_pre", metric=metric, progress=False).method
        'atp'
    """
    estimator = ATTRIBUTION_METHODS.get(method)
    pair = RunPair.of(model, clean, corrupted, metric, at, units, positions, direction)
    pair.groups()  # what cannot be is refused before anything runs
    estimator.check(model, metric, clean)
    require_own_texts(metric, model, clean, pair.nodes)
    results = Checkpoint(
        checkpoint,
        "estimate of patches",
        lambda exact: run_identity(
            model,
            exact,
            the_clean_batch=clean,
            the_corrupted_batch=corrupted,
            points=[(node.name, units) for node, units in pair.selection],
            positions=positions,
            metric=metric,
            direction=direction,
            method=estimator,
        ),
    )
    names = [node.name for node in pair.nodes]
    sweeps = []
    for number, reading in enumerate(readings(metric, model, clean.size, clean=clean)):
        source, target, groups = pair.behind(reading)
        logits, cache = model.run_with_cache(source, names=names)
        source_logits = reading.rows(model, logits, source)
        clean_rows = source_logits if direction == "denoise" else reading.rows(model, model(target), target)
        reading = reading.against(clean_rows)
        activations = {name: cache[name] for name in names}
        estimate = estimator.estimate(PatchedRun(model, target, activations, reading), progress=progress)
        effects = _effects(pair, results, estimate, groups, target, number)
        rows = targets(model, pair.selection, activations)
        cells = [(effects[row.node.name], row.indices) for row in rows]
        sums = torch.stack([(effect if units is None else effect[list(units)]).sum(0) for effect, units in cells])
        baseline = estimate.values.cpu()
        ends = (reading.values(source_logits), baseline)
        sweeps.append(pair.sweep(sums + baseline, rows, groups, ends, method=str(estimator), identity=results.identity))
    return summed(sweeps)


def _effects(
    pair: RunPair,
    results: Checkpoint,
    estimate: Estimate,
    groups: Mapping[str, Sequence[Group]],
    target: MultimodalBatch,
    number: int,
) -> dict[str, torch.Tensor]:
    """The effects at every point, those of one reading shared by the processes of a launch."""

    def work(key: str) -> torch.Tensor:
        name = key.rpartition(" ")[2]
        # points of a model on several devices meet on the CPU
        return estimate.effects[name].of_groups(pair.model.graph[name], groups[name], target).cpu()

    keys = {f"{number} {node.name}": node.name for node in pair.nodes}
    identity = partial(identity_of, [pair.clean, pair.corrupted])
    effects = shared_tensors(list(keys), work, process_of(pair.model), results, run=identity)
    return {keys[key]: effect for key, effect in effects.items()}
