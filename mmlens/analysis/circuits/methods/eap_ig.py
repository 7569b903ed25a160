"""Edge attribution patching with integrated gradients."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float

from mmlens.analysis.circuits.edge_gradients import first_order_scores
from mmlens.analysis.circuits.graph import EdgeGraph
from mmlens.analysis.circuits.method import CIRCUIT_METHODS, CircuitMethod
from mmlens.analysis.circuits.runs import Pair
from mmlens.core.kinds import Count


@CIRCUIT_METHODS.register("eap-ig")
@dataclass(frozen=True)
class EAPIG(CircuitMethod):
    """Edge attribution patching with the mean gradient of runs whose inputs lie between the clean and the corrupted run's.

    Attributes:
        steps: how many runs.

    Source: Hanna, Pezzelle and Belinkov, "Have Faith in Faithfulness: Going Beyond Circuit Overlap When Finding Model
    Mechanisms", COLM 2024 (https://arxiv.org/abs/2403.17806), section 3.
    *Departs:* the steps are the midpoints (i - 1/2) / m rather than i / m, which makes the error of the sum quadratic in 1 / m;
    the path starts at the pixels' embeddings as well as the words'. Scores are signed, and kept for each sample.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"gradients"})

    steps: Count = 5

    def passes(self, graph: EdgeGraph) -> tuple[int, int]:
        return self.steps, self.steps

    def scores(self, pair: Pair, *, progress: bool) -> Float[torch.Tensor, "reader writer sample"]:
        shares = [(step + 0.5) / self.steps for step in range(self.steps)]
        return first_order_scores(pair, shares, label="EAP-IG", progress=progress)
