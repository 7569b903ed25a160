"""Edge attribution patching."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float

from mmlens.analysis.circuits.first_order import PathStep, first_order_scores
from mmlens.analysis.circuits.graph import EdgeGraph
from mmlens.analysis.circuits.method import CIRCUIT_METHODS, CircuitMethod
from mmlens.analysis.circuits.runs import Pair


@CIRCUIT_METHODS.register("eap")
@dataclass(frozen=True)
class EAP(CircuitMethod):
    """Edge attribution patching: the writer's difference times the gradient of the clean run at the reader, all edges at once.

        score(w, r) = sum over positions of (w ablated - w clean) . d metric / d (what r receives)

    Source: Syed, Rager and Conmy, "Attribution Patching Outperforms Automated Circuit Discovery", BlackboxNLP 2024
    (https://arxiv.org/abs/2310.10348), equation 3.
    *Departs:* scores are signed, and kept for each sample.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"gradients"})

    def passes(self, graph: EdgeGraph, batches: int = 1) -> tuple[int, int]:
        return batches, batches

    def scores(self, pair: Pair, *, progress: bool) -> Float[torch.Tensor, "reader writer sample"]:
        return first_order_scores(pair, [PathStep(0.0, 1.0)], label="EAP", progress=progress)
