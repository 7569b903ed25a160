"""Edge attribution patching with integrated gradients, along the inputs."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float

from mmlens.analysis.circuits.first_order import first_order_scores, path_steps
from mmlens.analysis.circuits.graph import EdgeGraph
from mmlens.analysis.circuits.method import CIRCUIT_METHODS, CircuitMethod
from mmlens.analysis.circuits.runs import Pair
from mmlens.core.kinds import Count


@CIRCUIT_METHODS.register("eap-ig")
@dataclass(frozen=True)
class EAPIG(CircuitMethod):
    """Edge attribution patching with the mean gradient of runs whose inputs lie between the clean and the ablated run's.

    Attributes:
        steps: how many runs.

    Source: Hanna, Pezzelle and Belinkov, "Have Faith in Faithfulness: Going Beyond Circuit Overlap When Finding Model
    Mechanisms", COLM 2024 (https://arxiv.org/abs/2403.17806), section 3.
    *Departs:* the steps are those of Gauss and Legendre, not i / m: three of them integrate a polynomial of degree 5 without
    error. The path starts at the pixels' embeddings as well as the words'. Scores are signed, and kept for each sample.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"gradients"})

    steps: Count = 3

    def passes(self, graph: EdgeGraph, batches: int = 1) -> tuple[int, int]:
        return self.steps * batches, self.steps * batches

    def scores(self, pair: Pair, *, progress: bool) -> Float[torch.Tensor, "reader writer sample"]:
        return first_order_scores(pair, path_steps(self.steps), label="EAP-IG", progress=progress)
