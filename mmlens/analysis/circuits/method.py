"""The contract of methods that score the edges of a circuit, and their registry."""

from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias

import torch
from jaxtyping import Float

from mmlens.analysis.attribution.gradients import require_gradient
from mmlens.analysis.circuits.graph import EdgeGraph
from mmlens.analysis.circuits.runs import Pair
from mmlens.analysis.metrics import Metric, MetricFunction
from mmlens.core.kinds import Accepts
from mmlens.core.registry import Method, Registry
from mmlens.inputs.batch import MultimodalBatch
from mmlens.models.hooked import HookedMultimodal


@dataclass(frozen=True)
class CircuitMethod(Method):
    """How edges are scored by what the metric changes when one of them alone carries the corrupted run.

    `needs` may hold `"gradients"`: torch can differentiate, and the metric has a gradient.
    """

    def check(self, model: HookedMultimodal, metric: Metric | MetricFunction, batch: MultimodalBatch) -> None:
        """Refuse what the method cannot do, before any forward pass.

        Raises:
            InputError: if a need is not met.
        """
        if "gradients" in self.needs:
            require_gradient(metric, model, batch)

    def passes(self, graph: EdgeGraph) -> tuple[int, int]:
        """Forward and backward passes that scoring all edges of a graph takes.

        Args:
            graph: the writers and readers.
        """
        raise NotImplementedError

    def scores(self, pair: Pair, *, progress: bool) -> Float[torch.Tensor, "reader writer sample"]:
        """Scores of all edges; zero for pairs that are no edges.

        Args:
            pair: the two runs and the graph.
            progress: show a progress bar.
        """
        raise NotImplementedError


CIRCUIT_METHODS: Registry[CircuitMethod] = Registry("finding circuits", CircuitMethod, verb="mm.find_circuit")
#: A method by name, or its settings.
CircuitChoice: TypeAlias = Annotated[str | CircuitMethod, Accepts(Any), CIRCUIT_METHODS.condition]
