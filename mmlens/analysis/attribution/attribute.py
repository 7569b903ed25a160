"""`attribute`: a patching sweep estimated from gradients, at the cost of a few runs in place of one per cell."""

from functools import partial
from typing import Literal

import torch

from mmlens.analysis.attribution.gradients import require_own_texts
from mmlens.analysis.attribution.method import PatchedRun
from mmlens.analysis.attribution.methods import ATTRIBUTION_METHODS, AttributionChoice
from mmlens.analysis.metrics import MetricLike, MetricReading, as_forced, metric_name, readings
from mmlens.analysis.patching.groups import groups_of
from mmlens.analysis.patching.result import PatchSweep, summed
from mmlens.analysis.patching.units import SweptUnits, select_points, targets
from mmlens.core.checkpoint import Checkpoint
from mmlens.core.contract import checked
from mmlens.core.identity import identity_of
from mmlens.core.kinds import PathLike
from mmlens.core.rule_groups import Groups
from mmlens.core.shares import shared_tensors
from mmlens.hooks.nodes import Points
from mmlens.inputs.batch import BatchLike
from mmlens.interventions.pairs import require_same_layout
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
    direction: Literal["denoise", "noise"] = "denoise",
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
    require_same_layout(clean, corrupted)
    selection = select_points(model, at, units)
    # what cannot be is refused before anything runs
    groups_of(as_forced(metric, model, clean), [node for node, _ in selection], positions)
    estimator.check(model, metric, clean)
    require_own_texts(metric, model, clean, [node for node, _ in selection])
    results = Checkpoint(
        checkpoint,
        "estimate of patches",
        lambda exact: run_identity(
            model,
            exact,
            the_clean_batch=clean,
            the_corrupted_batch=corrupted,
            points=[(node.name, units) for node, units in selection],
            positions=positions,
            metric=metric,
            direction=direction,
            method=estimator,
        ),
    )

    def estimated(number: int, reading: MetricReading) -> PatchSweep:
        batches = [reading.behind(model, batch) for batch in (clean, corrupted)]
        groups = groups_of(batches[0], [node for node, _ in selection], positions)
        source, target = batches if direction == "denoise" else reversed(batches)
        names = [node.name for node, _ in selection]
        logits, cache = model.run_with_cache(source, names=names)
        source_logits = reading.rows(model, logits, source)
        clean_run = source_logits if direction == "denoise" else reading.rows(model, model(batches[0]), batches[0])
        reading = reading.against(clean_run)
        activations = {name: cache[name] for name in names}
        estimate = estimator.estimate(PatchedRun(model, target, activations, reading), progress=progress)

        def work(key: str) -> torch.Tensor:
            name = key.rpartition(" ")[2]
            # points of a model on several devices meet on the CPU
            return estimate.effects[name].of_groups(model.graph[name], groups[name], target).cpu()

        described = partial(identity_of, [clean, corrupted])
        keys = {f"{number} {name}": name for name in names}
        made = shared_tensors(list(keys), work, process_of(model), results, run=described)
        effects = {keys[key]: effect for key, effect in made.items()}
        sweep_targets = targets(model, selection, activations)
        cells = [(effects[cell.node.name], cell.indices) for cell in sweep_targets]
        baseline, source_values = estimate.values.cpu(), reading.values(source_logits).cpu()
        sums = torch.stack([(effect if units is None else effect[list(units)]).sum(0) for effect, units in cells])
        first = next(iter(groups.values()))
        return PatchSweep(
            values=sums + baseline,
            points=[cell.name for cell in sweep_targets],
            groups=[group.name for group in first],
            clean=source_values if direction == "denoise" else baseline,
            corrupted=baseline if direction == "denoise" else source_values,
            direction=direction,
            metric=metric_name(metric),
            method=str(estimator),
            row_units=tuple(cell.units for cell in sweep_targets),
            boxes=tuple(group.boxes for group in first),
            identity=results.identity,
        )

    return summed([
        estimated(number, reading) for number, reading in enumerate(readings(metric, model, clean.size, clean=clean))
    ])  # fmt: skip
