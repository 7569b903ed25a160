"""Attribution patching with integrated gradients."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch

from mmlens.analysis.attribution.effects import EntryEffects, PointEffects
from mmlens.analysis.attribution.gradients import gradients_at
from mmlens.analysis.attribution.method import ATTRIBUTION_METHODS, AttributionMethod, Estimate, PatchedRun
from mmlens.core.kinds import Count
from mmlens.core.progress import progress_over


@ATTRIBUTION_METHODS.register("ig")
@dataclass(frozen=True)
class IntegratedGradients(AttributionMethod):
    """Attribution patching with the mean gradient at activations between the two runs'.

        effect ~ sum over rows of (a' - a) . mean over alpha in 0..1 of d metric / d a at a + alpha (a' - a)

    with all rows of a point on the way together, so that effects of groups that make up a point sum to that of patching the
    whole point. `steps` forward and backward passes per point.

    Attributes:
        steps: midpoints of so many equal parts of the way.

    Source: Sundararajan, Taly and Yan, "Axiomatic Attribution for Deep Networks", ICML 2017
    (https://arxiv.org/abs/1703.01365), with the other run's activations for the baseline.
    *Departs:* the integral runs over midpoints.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"gradients"})

    steps: Count = 10

    def estimate(self, run: PatchedRun, *, progress: bool) -> Estimate:
        logits, cache = run.model.run_with_cache(run.batch, names=list(run.source))
        values = run.reading.of_run(run.model, logits, run.batch)
        return Estimate(values, _Effects(run, cache.cache_dict, self.steps, progress))


class _Effects(Mapping[str, PointEffects]):
    """Effects of each point, worked out when they are asked for: processes that share a run ask for some points each.

    Args:
        run: what is patched, and with what.
        before: its activations without a patch.
        steps: parts of the way.
        progress: show a progress bar per point.
    """

    def __init__(self, run: PatchedRun, before: Mapping[str, torch.Tensor], steps: int, progress: bool):
        self._run, self._before, self._steps, self._progress = run, before, steps, progress

    def __iter__(self) -> Iterator[str]:
        return iter(self._run.source)

    def __len__(self) -> int:
        return len(self._run.source)

    def __getitem__(self, name: str) -> PointEffects:
        run, before = self._run, self._before[name]
        difference = run.source[name] - before
        total = torch.zeros_like(difference)
        for step in progress_over(range(self._steps), desc=name, disable=not self._progress):
            path_point = {name: before + (step + 0.5) / self._steps * difference}
            total += gradients_at(run.model, run.batch, [name], run.reading, values_at=path_point)[1][name]
        return EntryEffects(difference * total / self._steps)
