"""The contract of methods that estimate a patching sweep, and their registry."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias

import torch
from jaxtyping import Float

from mmlens.analysis.attribution.effects import PointEffects
from mmlens.analysis.attribution.gradients import require_gradient
from mmlens.analysis.metrics import Metric, MetricFunction, MetricReading
from mmlens.core.kinds import Accepts
from mmlens.core.registry import Method, Registry
from mmlens.inputs.batch import MultimodalBatch
from mmlens.models.hooked import HookedMultimodal


@dataclass(frozen=True)
class PatchedRun:
    """A run into which activations of another run are put.

    Attributes:
        model: the hooked model.
        batch: what is patched.
        source: the other run's activations, by hook point.
        reading: what is read of the run.
    """

    model: HookedMultimodal
    batch: MultimodalBatch
    source: Mapping[str, torch.Tensor]
    reading: MetricReading


@dataclass(frozen=True)
class Estimate:
    """What a method made of a patched run.

    Attributes:
        values: the metric without a patch.
        effects: of each hook point.
    """

    values: Float[torch.Tensor, "sample"]
    effects: Mapping[str, PointEffects]


@dataclass(frozen=True)
class AttributionMethod(Method):
    """How the effects of patches are estimated without making them.

    `needs` may hold `"gradients"`: torch can differentiate, and the metric has a gradient.
    """

    def check(self, model: HookedMultimodal, metric: Metric | MetricFunction, batch: MultimodalBatch) -> None:
        """Refuse what the method cannot do, before any forward pass.

        Raises:
            InputError: if a need is not met.
        """
        if "gradients" in self.needs:
            require_gradient(metric, model, batch)

    def estimate(self, run: PatchedRun, *, progress: bool) -> Estimate:
        """The effects of patching every point of a run.

        Args:
            run: what is patched, and with what.
            progress: show a progress bar where there are many passes.
        """
        raise NotImplementedError


ATTRIBUTION_METHODS: Registry[AttributionMethod] = Registry(
    "estimating patches", AttributionMethod, verb="mm.attribute"
)
#: A method by name, or its settings.
AttributionChoice: TypeAlias = Annotated[str | AttributionMethod, Accepts(Any), ATTRIBUTION_METHODS.condition]
