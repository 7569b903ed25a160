"""Edge attribution patching with integrated gradients, along each writer's own output."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float

from mmlens.analysis.circuits.first_order import first_order_scores, path_steps
from mmlens.analysis.circuits.graph import EdgeGraph
from mmlens.analysis.circuits.method import CIRCUIT_METHODS, CircuitMethod
from mmlens.analysis.circuits.runs import Pair
from mmlens.core.kinds import Count


@CIRCUIT_METHODS.register("eap-ig-activations")
@dataclass(frozen=True)
class EAPIGActivations(CircuitMethod):
    """Edge attribution patching with the mean gradient of runs in which the writer's layer lies between clean and ablated.

    Layers are moved one after the other: a layer's heads together, the embeddings together; edges get the gradients of the runs
    in which their own writer was moved.

    Attributes:
        steps: how many runs for each layer.

    Source: Hanna, Pezzelle and Belinkov, "Have Faith in Faithfulness", COLM 2024 (https://arxiv.org/abs/2403.17806), section 3,
    and Marks et al., "Sparse Feature Circuits", ICLR 2025 (https://arxiv.org/abs/2403.19647), equation 3.
    *Departs:* the released code adds every run's gradient to all edges, also those whose writer was not moved. The steps are
    those of Gauss and Legendre; scores are signed, and kept for each sample.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"gradients"})

    steps: Count = 3

    def passes(self, graph: EdgeGraph, batches: int = 1) -> tuple[int, int]:
        runs = batches * self.steps * len({(writer.point, writer.stream) for writer in graph.writers})
        return runs, runs

    def scores(self, pair: Pair, *, progress: bool) -> Float[torch.Tensor, "reader writer sample"]:
        steps = [step for number in range(len(pair.writing.sources)) for step in path_steps(self.steps, source=number)]
        return first_order_scores(pair, steps, label="EAP-IG, activations", progress=progress)
