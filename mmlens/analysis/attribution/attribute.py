"""`attribute`: a patching sweep to first order, at the cost of a few runs in place of one per cell.

AtP: the effect of putting activation a' in the place of a, at the rows of a group,

    effect ~ sum over rows of (a' - a) . d metric / d a

with the gradient of the run that is patched: two forward passes and one backward pass for all cells. AtP with integrated
gradients takes the mean of the gradients at activations between a and a', which costs `steps` runs per point and sums over
groups to the effect of patching the whole point.

Source: Nanda, "Attribution Patching", 2023 (https://www.neelnanda.io/mechanistic-interpretability/attribution-patching); Kramár
et al., "AtP*", 2024 (https://arxiv.org/abs/2403.00745), equations 3 and 4, section 3.1 (`qk_fix`); Sundararajan, Taly and Yan,
"Axiomatic Attribution for Deep Networks", ICML 2017 (https://arxiv.org/abs/1703.01365) for the integral.
Departs: the integral runs over midpoints, with all rows of a point on the way together.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, get_args

import torch
from tqdm.auto import tqdm

from mmlens.analysis.attribution.gradients import gradients_at, require_gradient
from mmlens.analysis.attribution.softmax import PatternEffect, inner_points, patched_scores
from mmlens.analysis.metrics import (
    Metric,
    MetricFunction,
    as_function,
    metric_name,
    predicting_logits,
    require_metric,
    require_values,
)
from mmlens.analysis.patching.groups import Group, Groups
from mmlens.analysis.patching.result import PatchSweep
from mmlens.analysis.patching.sweep import groups_of
from mmlens.analysis.patching.units import Target, Units, choose, targets
from mmlens.core.errors import InputError
from mmlens.core.names import Names
from mmlens.execution import rows_of
from mmlens.hooks.nodes import Node, Selection
from mmlens.inputs.batch import MultimodalBatch
from mmlens.interventions.ablation import unit_axis
from mmlens.interventions.pairs import require_same_layout
from mmlens.models.hooked import HookedMultimodal

Approximation: TypeAlias = Literal["atp", "ig"]


@torch.no_grad()
def attribute(
    model: HookedMultimodal,
    clean: MultimodalBatch,
    corrupted: MultimodalBatch,
    *,
    metric: Metric | MetricFunction,
    at: Names | Selection | None = None,
    units: Units = None,
    positions: Groups = ("image", "text", "last"),
    direction: Literal["denoise", "noise"] = "denoise",
    method: Approximation = "atp",
    steps: int = 10,
    qk_fix: bool = True,
    progress: bool = True,
) -> PatchSweep:
    """Estimate what `mm.patch` would find, for all cells at once.

    Args:
        model: the hooked model.
        clean, corrupted, metric, at, units, positions, direction: as for `mm.patch`.
        method: `"atp"` (gradients of the patched run) or `"ig"` (mean gradients between the two runs' activations).
        steps: of `"ig"`, per point.
        qk_fix: with `"atp"`, patches of queries and keys go through the softmax exactly (two more runs).
        progress: show a progress bar.

    Returns:
        A sweep like that of `mm.patch`, whose `method` says that it is approximate.

    Raises:
        InputError: as for `mm.patch`; before any forward pass.

    Example:
        >>> import mmlens as mm
        >>> corrupted = mm.corrupt.blur(model, batch)
        >>> metric = mm.metrics.log_probability(5)
        >>> attribute(model, batch, corrupted, at="blocks.*.hook_resid_pre", metric=metric, progress=False).method
        'AtP'
    """
    if direction not in ("denoise", "noise"):
        raise InputError(f"direction={direction!r} must be 'denoise' or 'noise'.")
    if method not in get_args(Approximation) or steps < 1:
        raise InputError(f"method={method!r} must be 'atp' or 'ig', and steps={steps} at least 1.")
    require_same_layout(clean, corrupted)
    chosen = choose(model, at, units)
    groups = groups_of(clean, chosen, positions)
    require_metric(metric, model, clean.size)
    require_gradient(metric, model, clean.size)
    source, target = (clean, corrupted) if direction == "denoise" else (corrupted, clean)
    names = [node.name for node, _ in chosen]
    logits, cache = model.run_with_cache(source, names=names)
    at_source = predicting_logits(model, logits, source.layout.last)
    clean_logits = at_source if direction == "denoise" else predicting_logits(model, model(clean), clean.layout.last)
    measure = as_function(metric, model, clean=clean_logits)
    fixed = [name for name in names if name.endswith((".hook_q", ".hook_k"))] if qk_fix and method == "atp" else []
    run = _Run(model, target, measure, {name: cache[name] for name in names})
    contributions = run.first_order(fixed) if method == "atp" else run.integrated(steps, progress)
    swept = targets(chosen, run.source)
    effects = [
        _key_effects(node, groups[node.name], target, run.keys[node.name], run.source[node.name])
        if node.name in run.keys
        else _effects(node, groups[node.name], target, contributions[node.name])
        for node, _ in chosen
    ]
    # points of a model on several devices meet on the CPU
    values = (
        _by_target(swept, {name: effect.cpu() for name, effect in zip(names, effects, strict=True)}) + run.values.cpu()
    )
    ends = [require_values(measure(at_source), clean.size), run.values]
    clean_value, corrupted_value = ends if direction == "denoise" else reversed(ends)
    how = "AtP" if method == "atp" else f"AtP with integrated gradients, {steps} steps"
    first = next(iter(groups.values()))
    return PatchSweep(
        values=values,
        points=[each.name for each in swept],
        groups=[group.name for group in first],
        clean=clean_value.cpu(),
        corrupted=corrupted_value.cpu(),
        direction=direction,
        metric=metric_name(metric),
        method=f"{how} with the QK fix" if fixed else how,
        boxes=tuple(group.boxes for group in first),
    )


@dataclass
class _Run:
    """The run that is patched, and the activations that are put in.

    Attributes:
        model: the hooked model.
        target: the batch that is patched.
        measure: the metric.
        source: the other run's activations by point.
        values: the metric without a patch, `[sample]`.
        keys: what patches of each key point do to its pattern, where that is computed exactly.
    """

    model: HookedMultimodal
    target: MultimodalBatch
    measure: MetricFunction
    source: dict[str, torch.Tensor]
    values: torch.Tensor = field(default_factory=lambda: torch.zeros(0))
    keys: dict[str, PatternEffect] = field(default_factory=dict)

    def first_order(self, fixed: Sequence[str]) -> dict[str, torch.Tensor]:
        """What each entry of each point contributes, `(a' - a) . gradient`; what patches of keys do goes to `keys`.

        Args:
            fixed: query and key points whose softmax is computed exactly: one more run for queries, one for keys.
        """
        inner = dict.fromkeys(name for point in fixed for name in inner_points(point))
        names = [*self.source, *(name for name in inner if name not in self.source)]
        activations, gradients, self.values = gradients_at(self.model, self.target, names, self.measure)
        found = {name: (self.source[name] - activations[name]) * gradients[name] for name in self.source}
        for ending in (".hook_q", ".hook_k"):
            points = [name for name in fixed if name.endswith(ending)]
            scores = patched_scores(self.model, self.target, points, self.source, activations) if points else {}
            for name, patched in scores.items():
                before, after = inner_points(name)
                effect = PatternEffect(activations[before], patched, activations[after], gradients[after])
                if ending == ".hook_q":
                    found[name] = effect.of_queries()
                else:
                    self.keys[name] = effect
        return found

    def integrated(self, steps: int, progress: bool) -> dict[str, torch.Tensor]:
        """The same with the mean gradient between the two runs' activations: `steps` runs per point."""
        logits, cache = self.model.run_with_cache(self.target, names=list(self.source))
        self.values = self.measure(predicting_logits(self.model, logits, self.target.layout.last))
        found = {}
        with tqdm(total=steps * len(self.source), desc="integrated gradients", disable=not progress) as bar:
            for name, there in self.source.items():
                difference = there - cache[name]
                total = torch.zeros_like(difference)
                for step in range(steps):
                    moved = {name: cache[name] + (step + 0.5) / steps * difference}
                    total += gradients_at(self.model, self.target, [name], self.measure, moved=moved)[1][name]
                    bar.update()
                found[name] = difference * total / steps
        return found


def _effects(node: Node, groups: Sequence[Group], batch: MultimodalBatch, contribution: torch.Tensor) -> torch.Tensor:
    """Sums of contributions over each group's rows, `[unit group sample]`, with all heads or neurons apart."""
    words = node.axes.split()
    has_units = "head" in words or "neuron" in words
    axis = unit_axis(node.axes) - len(words) if has_units else None
    rows = []
    for group in groups:
        for sample, own in enumerate(group.rows):
            piece = rows_of(contribution, node, batch, sample, own)
            piece = piece[..., None] if axis is None else piece.movedim(axis, -1)
            rows.append(piece.reshape(-1, piece.shape[-1]).sum(0) if axis is not None else piece.sum()[None])
    return torch.stack(rows, dim=-1).unflatten(-1, (len(groups), batch.size))


def _key_effects(
    node: Node, groups: Sequence[Group], batch: MultimodalBatch, effect: PatternEffect, keys: torch.Tensor
) -> torch.Tensor:
    """The same for keys, which meet in the softmax, so that each group is computed by itself.

    Args:
        node: the key point.
        groups: the groups of keys.
        batch: whose rows they are.
        effect: what patches of keys do to the pattern.
        keys: the point's activation; grouped heads have one key for several queries.
    """
    heads, grouped = effect.scores.shape[-3], keys.shape[-2]
    number = torch.arange(keys[..., 0, 0].numel()).reshape(keys.shape[:-2])  # of each row of keys
    found = []
    for group in groups:
        for sample, own in enumerate(group.rows):
            chosen = torch.zeros(number.numel(), dtype=torch.bool)
            chosen[rows_of(number[..., None, None], node, batch, sample, own).flatten()] = True
            per_head = effect.of_keys(chosen.reshape(number.shape)).reshape(-1, grouped, heads // grouped)
            found.append(per_head.sum((0, 2)))
    return torch.stack(found, dim=-1).unflatten(-1, (len(groups), batch.size))


def _by_target(swept: Sequence[Target], effects: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Effects of the swept points or units, `[point group sample]`."""
    found = [(effects[each.node.name], each.unit) for each in swept]
    return torch.stack([effect.sum(0) if unit is None else effect[unit] for effect, unit in found])
