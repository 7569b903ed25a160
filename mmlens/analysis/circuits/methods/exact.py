"""Edges patched one by one."""

from dataclasses import dataclass

import torch
from jaxtyping import Float

from mmlens.analysis.circuits.graph import EdgeGraph
from mmlens.analysis.circuits.method import CIRCUIT_METHODS, CircuitMethod
from mmlens.analysis.circuits.runs import Pair
from mmlens.core.progress import progress_over


@CIRCUIT_METHODS.register("exact")
@dataclass(frozen=True)
class Exact(CircuitMethod):
    """What the metric changes when an edge alone is ablated: one run per edge, for small graphs.

    Source: Conmy et al., "Towards Automated Circuit Discovery for Mechanistic Interpretability", NeurIPS 2023
    (https://arxiv.org/abs/2304.14997), the patching of single edges that it prunes by.
    *Departs:* all edges are scored, none is pruned on the way; `"acdc"` does that.
    """

    def passes(self, graph: EdgeGraph, batches: int = 1) -> tuple[int, int]:
        return int(graph.allowed.sum()) * batches, 0

    def scores(self, pair: Pair, *, progress: bool) -> Float[torch.Tensor, "reader writer sample"]:
        graph = pair.graph
        scores = torch.zeros(len(graph.readers), len(graph.writers), pair.clean.size)
        clean = pair.ends[0].detach()
        for reader, writer in progress_over(graph.allowed.nonzero().tolist(), desc="edges", disable=not progress):
            edge = torch.zeros_like(graph.allowed)
            edge[reader, writer] = True
            scores[reader, writer] = (pair.run(edge) - clean).cpu()
        return scores
