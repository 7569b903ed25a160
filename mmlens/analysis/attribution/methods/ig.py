"""Attribution patching with integrated gradients."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from tqdm.auto import tqdm

from mmlens.analysis.attribution.effects import EntryEffects, PointEffects
from mmlens.analysis.attribution.gradients import gradients_at
from mmlens.analysis.attribution.method import ATTRIBUTION_METHODS, AttributionMethod, Estimate, PatchedRun
from mmlens.core.kinds import Count


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
        effects: dict[str, PointEffects] = {}
        with tqdm(total=self.steps * len(run.source), desc="integrated gradients", disable=not progress) as bar:
            for name, source in run.source.items():
                difference = source - cache[name]
                total = torch.zeros_like(difference)
                for step in range(self.steps):
                    path_point = {name: cache[name] + (step + 0.5) / self.steps * difference}
                    total += gradients_at(run.model, run.batch, [name], run.reading, values_at=path_point)[1][name]
                    bar.update()
                effects[name] = EntryEffects(difference * total / self.steps)
        return Estimate(values, effects)
