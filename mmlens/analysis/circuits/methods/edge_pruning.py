"""Edge pruning: a mask over edges that is learned."""

from dataclasses import dataclass
from math import log
from typing import ClassVar

import torch
from torch.nn.functional import softplus

from mmlens.analysis.circuits.dataset import PairData
from mmlens.analysis.circuits.graph import EdgeGraph
from mmlens.analysis.circuits.method import CIRCUIT_METHODS, CircuitMethod, Found, clean_answers, divergence
from mmlens.core.kinds import Count, Fraction, Positive, Seed
from mmlens.core.progress import progress_over

#: The hard concrete distribution: stretched from 0..1 to -0.1..1.1, and its temperature.
_LOW, _HIGH, _TEMPERATURE = -0.1, 1.1, 2 / 3
#: Where masks begin: nearly all of every edge is kept.
_START = 2.0


@CIRCUIT_METHODS.register("edge-pruning")
@dataclass(frozen=True)
class EdgePruning(CircuitMethod):
    """A mask over all edges at once, learned so that the answer stays and a share of the edges goes.

        z = clip(1.2 sigmoid((logit u + a) / (2/3)) - 0.1, 0, 1), u ~ U(0, 1)
        loss = KL(clean || run with 1 - z of each edge ablated) + l1 (t - s) + l2 (t - s)^2

    s is the share of edges that are gone, t the share that should be, l1 and l2 are learned to the contrary. An edge's score is
    -softplus(a); the circuit has the edges whose z is above one half without noise.

    Attributes:
        steps: of gradient descent (Adam), each on one batch.
        sparsity: the share of edges that should go, reached after half of the steps.
        lr: its learning rate, of masks and multipliers.
        seed: of the noise u.

    Source: Bhaskar, Wettig, Friedman and Chen, "Finding Transformer Circuits with Edge Pruning", NeurIPS 2024
    (https://arxiv.org/abs/2406.16778), section 3.
    *Departs:* masks of nodes beside those of edges are left out: an edge that leads nowhere costs as much as any other.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"gradients"})
    unit: ClassVar[str] = "logits of a mask"

    steps: Count = 120
    sparsity: Fraction = 0.9
    lr: Positive = 0.2
    seed: Seed = 0

    def passes(self, graph: EdgeGraph, batches: int = 1) -> tuple[int, int]:
        return batches + self.steps, self.steps

    def search(self, data: PairData, *, progress: bool) -> Found:
        edge_mask, batches = data.graph.allowed, list(data)
        answers = [clean_answers(pairs) for pairs in batches]
        generator = torch.Generator().manual_seed(self.seed)
        with torch.enable_grad():
            logits = torch.full((int(edge_mask.sum()),), _START, requires_grad=True)
            multipliers = torch.zeros(2, requires_grad=True)
            optimizer = torch.optim.Adam([logits], lr=self.lr)
            ascent = torch.optim.Adam([multipliers], lr=self.lr, maximize=True)
            for step in progress_over(range(self.steps), desc="edge pruning", disable=not progress):
                noise = torch.rand(logits.shape, generator=generator).clamp(1e-6, 1 - 1e-6)
                kept = (_HIGH - _LOW) * ((noise.logit() + logits) / _TEMPERATURE).sigmoid() + _LOW
                patched = torch.zeros(edge_mask.shape).masked_scatter(edge_mask, 1 - kept.clamp(0, 1))
                number = step % len(batches)
                loss = divergence(answers[number], batches[number], patched).mean()
                # the probability that z is not 0 is the share that is kept
                sparsity = 1 - (logits - _TEMPERATURE * log(-_LOW / _HIGH)).sigmoid().mean()
                missing = self.sparsity * min(1.0, 2 * (step + 1) / self.steps) - sparsity
                loss = loss + multipliers[0] * missing + multipliers[1] * missing**2
                optimizer.zero_grad()
                ascent.zero_grad()
                torch.autograd.backward(loss, inputs=[logits, multipliers])
                optimizer.step()
                ascent.step()
        edge_logits = torch.full(edge_mask.shape, float("-inf")).masked_scatter(edge_mask, logits.detach())
        stays = (_HIGH - _LOW) * (edge_logits / _TEMPERATURE).sigmoid() + _LOW > 0.5
        return Found(-softplus(edge_logits)[..., None] * edge_mask[..., None], data.graph.connected(stays & edge_mask))
