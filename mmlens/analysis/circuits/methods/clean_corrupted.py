"""Edge attribution patching with the gradients of both ends."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float

from mmlens.analysis.circuits.first_order import PathStep, first_order_scores
from mmlens.analysis.circuits.graph import EdgeGraph
from mmlens.analysis.circuits.method import CIRCUIT_METHODS, CircuitMethod
from mmlens.analysis.circuits.runs import Pair


@CIRCUIT_METHODS.register("clean-corrupted")
@dataclass(frozen=True)
class CleanCorrupted(CircuitMethod):
    """Edge attribution patching with the mean of the clean run's gradient and that of the run with ablated inputs.

    Source: Hanna, Pezzelle and Belinkov, "Have Faith in Faithfulness", COLM 2024 (https://arxiv.org/abs/2403.17806), code
    (https://github.com/hannamw/EAP-IG, `method="clean-corrupted"`).
    *Departs:* scores are signed, and kept for each sample.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"gradients"})

    def passes(self, graph: EdgeGraph, batches: int = 1) -> tuple[int, int]:
        return 2 * batches, 2 * batches

    def scores(self, pair: Pair, *, progress: bool) -> Float[torch.Tensor, "reader writer sample"]:
        ends = [PathStep(0.0, 0.5), PathStep(1.0, 0.5)]
        return first_order_scores(pair, ends, label="clean-corrupted", progress=progress)
