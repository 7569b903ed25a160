"""Automatic circuit discovery: edges are left out one after the other."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from mmlens.analysis.circuits.dataset import PairData
from mmlens.analysis.circuits.graph import EdgeGraph
from mmlens.analysis.circuits.method import CIRCUIT_METHODS, CircuitMethod, Found, clean_answers, divergence
from mmlens.core.kinds import NonNegative
from mmlens.core.progress import ProgressBar


@CIRCUIT_METHODS.register("acdc")
@dataclass(frozen=True)
class ACDC(CircuitMethod):
    """Edges from the logits back to the inputs are ablated for good where the answer's KL divergence rises by less than tau.

    An edge's score is minus the rise when it was tried, with what had been left out before; edges out of which nothing leads to
    the logits any more are left out untried, with a score of 0. `circuit.kept` is what stayed.

    Attributes:
        tau: the least rise, in nats, of the mean over samples, that keeps an edge.

    Source: Conmy et al., "Towards Automated Circuit Discovery for Mechanistic Interpretability", NeurIPS 2023
    (https://arxiv.org/abs/2304.14997), algorithm 1.
    *Departs:* edges that lead nowhere are not tried, which changes no result.
    """

    unit: ClassVar[str] = "nats"

    tau: NonNegative = 0.01

    def passes(self, graph: EdgeGraph, batches: int = 1) -> tuple[int, int]:
        return (1 + int(graph.allowed.sum())) * batches, 0

    @torch.no_grad()
    def search(self, data: PairData, *, progress: bool) -> Found:
        graph, batches = data.graph, list(data)
        answers = [clean_answers(pairs) for pairs in batches]
        patched = torch.zeros_like(graph.allowed)
        scores = torch.zeros(*graph.allowed.shape, 1)
        number = {writer.name: index for index, writer in enumerate(graph.writers)}
        current = 0.0
        # the logits read last, and of each reader's writers the last one first
        order = sorted(range(len(graph.readers)), key=lambda r: (-graph.readers[r].reads, -r))
        with ProgressBar(total=int(graph.allowed.sum()), desc="ACDC", disable=not progress) as bar:
            for reader in order:
                feeds = [number[name] for name in graph.readers[reader].feeds]
                is_used = graph.readers[reader].kind == "logits" or bool((graph.allowed & ~patched)[:, feeds].any())
                for writer in reversed(graph.allowed[reader].nonzero().flatten().tolist()):
                    bar.update()
                    patched[reader, writer] = True
                    if not is_used:
                        continue
                    values = [divergence(a, pairs, patched) for a, pairs in zip(answers, batches, strict=True)]
                    mean_value = float(torch.cat(values).mean())
                    scores[reader, writer] = current - mean_value
                    if mean_value - current < self.tau:
                        current = mean_value
                    else:
                        patched[reader, writer] = False
        return Found(scores, graph.connected(graph.allowed & ~patched))
