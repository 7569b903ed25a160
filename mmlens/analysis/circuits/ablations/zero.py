"""Ablation by nothing."""

from dataclasses import dataclass

import torch

from mmlens.analysis.circuits.ablation import ABLATIONS, Ablation, Means
from mmlens.hooks.nodes import Node
from mmlens.inputs.batch import MultimodalBatch


@ABLATIONS.register("zero")
@dataclass(frozen=True)
class ZeroAblation(Ablation):
    """Nothing: heads, MLPs and embeddings write zeros."""

    def values(self, batch: MultimodalBatch, node: Node, clean: torch.Tensor, means: Means | None) -> torch.Tensor:
        return torch.zeros_like(clean)
