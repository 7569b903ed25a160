"""Choices among scored edges: the strongest, or those that are grown from the logits back."""

from collections.abc import Sequence
from heapq import heappop, heappush
from typing import Literal, TypeAlias

import torch
from jaxtyping import Bool, Float

from mmlens.analysis.circuits.graph import EdgeGraph

#: How edges are ranked: by how much they change the metric, or by how much they help the answer.
Ranking: TypeAlias = Literal["absolute", "signed"]


def strengths(
    graph: EdgeGraph, scores: Float[torch.Tensor, "reader writer"], by: Ranking
) -> Float[torch.Tensor, "reader writer"]:
    """What edges are ranked by; minus infinity where there is none."""
    return (scores.abs() if by == "absolute" else -scores).masked_fill(~graph.allowed, -torch.inf)


def strongest(strength: Float[torch.Tensor, "reader writer"], n: int) -> Bool[torch.Tensor, "reader writer"]:
    """The n strongest edges."""
    mask = torch.zeros(strength.numel(), dtype=torch.bool)
    mask[strength.flatten().argsort(descending=True, stable=True)[:n]] = True
    return mask.reshape(strength.shape)


def grown(
    graph: EdgeGraph, strength: Float[torch.Tensor, "reader writer"], n: int
) -> Bool[torch.Tensor, "reader writer"]:
    """n edges taken one by one from the logits back, each the strongest into what is there; fewer where no more lead there."""
    mask = torch.zeros_like(graph.allowed)
    heap: list[tuple[float, int, int]] = []
    writers: set[int] = set()

    def enter(readers: Sequence[int]) -> None:
        for reader in set(readers) - writers:
            writers.add(reader)
            for writer in graph.allowed[reader].nonzero().flatten().tolist():
                heappush(heap, (-float(strength[reader, writer]), reader, writer))

    enter([number for number, reader in enumerate(graph.readers) if reader.kind == "logits"])
    for _ in range(n):
        if not heap:
            break
        _, reader, writer = heappop(heap)
        mask[reader, writer] = True
        enter(graph.feeders.get(graph.writers[writer].name, []))
    return mask
