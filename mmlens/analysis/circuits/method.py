"""The contract of methods that score the edges of a circuit, and their registry."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, TypeAlias

import torch
from jaxtyping import Bool, Float

from mmlens.analysis.attribution.gradients import require_gradient
from mmlens.analysis.circuits.dataset import PairData
from mmlens.analysis.circuits.graph import EdgeGraph
from mmlens.analysis.circuits.runs import Pair
from mmlens.core.errors import InputError
from mmlens.core.kinds import Accepts
from mmlens.core.registry import Method, Registry


@dataclass(frozen=True)
class Found:
    """What a method found.

    Attributes:
        scores: of all edges, each sample's, or one for all samples together; zero for pairs that are no edges. What is below
            zero helps the answer.
        kept: the edges that it chose; all where it only scores.
    """

    scores: Float[torch.Tensor, "reader writer score"]
    kept: Bool[torch.Tensor, "reader writer"]


@dataclass(frozen=True)
class CircuitMethod(Method):
    """How edges are scored, by default by what the metric changes when one of them alone is ablated.

    `needs` may hold `"gradients"`: torch can differentiate, and the metric has a gradient; and `"edges"`: what readers receive,
    so that graphs of nodes cannot be scored.
    """

    #: What scores are in; empty for the metric's unit.
    unit: ClassVar[str] = ""

    def check(self, data: PairData) -> None:
        """Refuse what the method cannot do, before any forward pass.

        Raises:
            InputError: if a need is not met.
        """
        if "edges" in self.needs and data.graph.by_node:
            raise InputError(
                f"method={self.name!r} looks at what each reader receives, and here nodes stand with all that reads them; use "
                f"{', '.join(map(repr, CIRCUIT_METHODS.without('edges')))}, or edges=True."
            )
        for metric, (clean, _) in zip(data.metrics, data.pairs, strict=True) if "gradients" in self.needs else ():
            require_gradient(metric, data.model, clean)

    def passes(self, graph: EdgeGraph, batches: int = 1) -> tuple[int, int]:
        """Forward and backward passes that scoring all edges of a graph takes, at most.

        Args:
            graph: the writers and readers.
            batches: how many batches of pairs there are.
        """
        raise NotImplementedError

    def search(self, data: PairData, *, progress: bool) -> Found:
        """Score all edges on a dataset.

        Args:
            data: the runs.
            progress: show a progress bar.
        """
        parts = [torch.stack([self.scores(pair, progress=progress) for pair in pairs]).sum(0) for pairs in data]
        return Found(torch.cat(parts, -1), data.graph.allowed.clone())

    def scores(self, pair: Pair, *, progress: bool) -> Float[torch.Tensor, "reader writer sample"]:
        """Scores of all edges on a batch; zero for pairs that are no edges.

        Args:
            pair: the runs and the graph.
            progress: show a progress bar.
        """
        raise NotImplementedError


def divergence(
    log_probabilities: Sequence[Float[torch.Tensor, "sample ..."]], pairs: Sequence[Pair], patched: torch.Tensor
) -> Float[torch.Tensor, "sample"]:
    """KL(clean || run with patched edges) of what the metric reads, in nats, summed over its rows.

    Args:
        log_probabilities: of the clean runs.
        pairs: of one batch.
        patched: which edges, or how much of each.
    """
    total = torch.zeros(pairs[0].clean.size)
    for clean, pair in zip(log_probabilities, pairs, strict=True):
        answer = pair.rows(patched).float().log_softmax(-1)
        total = total + (clean.exp() * (clean - answer)).flatten(1).sum(-1).cpu()
    return total


@torch.no_grad()
def clean_answers(pairs: Sequence[Pair]) -> list[torch.Tensor]:
    """Log-probabilities of what the metric reads in the clean runs of a batch, by one run each."""
    no_edges = torch.zeros_like(pairs[0].graph.allowed)
    return [pair.rows(no_edges).float().log_softmax(-1) for pair in pairs]


CIRCUIT_METHODS: Registry[CircuitMethod] = Registry("finding circuits", CircuitMethod, verb="mm.find_circuit")
#: A method by name, or its settings.
CircuitChoice: TypeAlias = Annotated[str | CircuitMethod, Accepts(Any), CIRCUIT_METHODS.condition]
