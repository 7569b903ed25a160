"""Ablation by means over all rows."""

from dataclasses import dataclass

import torch

from mmlens.analysis.circuits.ablation import ABLATIONS, Ablation, Means
from mmlens.hooks.nodes import Node
from mmlens.inputs.batch import MultimodalBatch


@ABLATIONS.register("mean")
@dataclass(frozen=True)
class MeanAblation(Ablation):
    """The mean over all rows of the clean batches."""

    def means(self) -> Means | None:
        return Means()

    def values(self, batch: MultimodalBatch, node: Node, clean: torch.Tensor, means: Means | None) -> torch.Tensor:
        if means is None:
            raise TypeError("means are counted before values are asked for")
        return means.of(batch, node, clean)
