"""Back-patching: late states of the image rows, given to earlier layers.

    image rows of blocks.{to}.hook_resid_post  <-  those of blocks.{from}.hook_resid_post of the same run,   to < from

Source: Nikankin et al., "Same Task, Different Circuits: Disentangling Modality-Specific Mechanisms in VLMs", 2025
(https://arxiv.org/abs/2506.09047), section 5; github.com/technion-cs-nlp/vlm-circuits-analysis. *Departs:* the published code
picks the best pair of layers and reports it on the same prompts; `split_best` picks on half of the samples and reports on
the others.
"""

from dataclasses import dataclass

import torch

from mmlens.analysis.metrics import MetricLike, metric_name
from mmlens.analysis.metrics.measure import measure
from mmlens.analysis.metrics.reading import as_forced
from mmlens.analysis.patching.result import PatchSweep
from mmlens.analysis.statistics.intervals import Interval, mean_interval
from mmlens.core.contract import checked
from mmlens.core.errors import InputError
from mmlens.core.kinds import Count, Seed
from mmlens.core.rules import Positions
from mmlens.inputs.batch import BatchLike
from mmlens.inputs.positions import resolve
from mmlens.interventions.activations import Replace
from mmlens.models.hooked import HookedMultimodal
from mmlens.models.identity import run_identity


@checked
@torch.no_grad()
def back_patch(
    model: HookedMultimodal,
    batch: BatchLike,
    *,
    metric: MetricLike,
    positions: Positions = "image",
    window: Count = 1,
) -> PatchSweep:
    """Give image rows their own later states, from every layer to every earlier one.

    What is made of the picture too late for the layers that would read it is there in time after this.

    Args:
        model: the hooked model.
        batch: the run.
        metric: of `mm.metrics`, or any function of logits `[batch vocab]` at the predicting position to `[batch]`.
        positions: whose states (see `mm.positions`): all image rows by default; `"text"` is the paper's control.
        window: how many neighbouring layers are given at once.

    Returns:
        A sweep: a row per layer that states are from, a column per layer that gets them, NaN where that is not an earlier one.
        `effect` is against the run as it is; `split_best` picks a pair.

    Raises:
        InputError: for positions that name nothing, or a window as deep as the model.

    Example:
        >>> import mmlens as mm
        >>> sweep = mm.patching.back_patch(model, batch, metric=mm.metrics.log_probability("red"))
        >>> sweep.effect.shape[:2]
        torch.Size([6, 6])
    """
    count = model.cfg.n_layers
    if window >= count:
        raise InputError(f"window={window} leaves no earlier layer among the model's {count}; give fewer.")
    names = [f"blocks.{layer}.hook_resid_post" for layer in range(count)]
    resolve(positions, as_forced(metric, model, batch), model.graph[names[0]])
    clean = measure(model, batch, metric=metric).float().cpu()
    _, cache = model.run_with_cache(batch, names=names)
    values = torch.full((count, count, len(clean)), torch.nan)
    for source in range(count - window + 1):
        for target in range(source):
            acts = [Replace(names[target + i], cache[names[source + i]], positions=positions) for i in range(window)]
            with model.intervene(*acts):
                values[source, target] = measure(model, batch, metric=metric).float().cpu()
    identity = run_identity(model, True, the_batch=batch, metric=metric, positions=positions, window=window)
    return PatchSweep(
        values, names, [f"to layer {layer}" for layer in range(count)], clean, clean, "back-patch", metric_name(metric),
        boxes=(None,) * count, identity=identity,
    )  # fmt: skip


@dataclass(frozen=True)
class SplitBest:
    """The cell of a sweep that is best on half of its samples, and what it does to the others.

    Attributes:
        point, group: the cell.
        chosen_on: its mean effect on the samples that chose it.
        effect: on the others, with its interval.
        control: of a control sweep in the same cell, on these others; None without one.
        beyond: how far the effect lies beyond the control's, sample by sample; None without one.
    """

    point: str
    group: str
    chosen_on: float
    effect: Interval
    control: Interval | None = None
    beyond: Interval | None = None


@checked
def split_best(sweep: PatchSweep, *, control: PatchSweep | None = None, seed: Seed = 0) -> SplitBest:
    """The cell with the largest mean effect on a random half of the samples, and its effect on the other half.

    Args:
        sweep: of at least four samples.
        control: a sweep of the same samples and cells, of something else: `back_patch(..., positions="text")`.
        seed: of the halves.

    Raises:
        InputError: for fewer samples, or a control of other samples or cells.
    """
    count = len(sweep.clean)
    if count < 4:
        raise InputError(
            f"A cell is picked on half of the samples and reported on the others; {count} are too few, give 4."
        )
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    first, rest = order[: count // 2], order[count // 2 :]
    means = sweep.effect[..., first].mean(-1)
    row, column = divmod(int(means.nan_to_num(-torch.inf).argmax()), means.shape[1])
    if control is not None and (control.points, control.groups, len(control.clean)) != (
        sweep.points,
        sweep.groups,
        count,
    ):
        raise InputError(
            f"control= has {len(control.points)} x {len(control.groups)} cells of {len(control.clean)} samples, and the sweep "
            f"{len(sweep.points)} x {len(sweep.groups)} of {count}; make both by the same call, of other positions."
        )
    amounts = [swept.effect[row, column, rest].double().numpy() for swept in (sweep, control) if swept is not None]
    further = [] if control is None else [mean_interval(amounts[1]), mean_interval(amounts[0] - amounts[1])]
    return SplitBest(
        sweep.points[row], sweep.groups[column], float(means[row, column]), mean_interval(amounts[0]), *further
    )
