"""Influence along the edges of an attribution graph: on the logits, of nodes and of edges, and what is pruned by it.

    N = |A|, every row divided by its sum          I = p (N + N^2 + ...)

Source: Ameisen et al., 2025 (https://transformer-circuits.pub/2025/attribution-graphs/methods.html); thresholds,
pruning and scores as in circuit-tracer (https://github.com/decoderesearch/circuit-tracer, graph.py).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float


@dataclass(frozen=True)
class GraphScores:
    """How much of a model's computation a graph's features carry, 0 to 1.

    Attributes:
        replacement: the share of influence from sources and errors that is from sources: paths through features alone.
        completeness: the share of what flows into nodes that is no error, weighted by what they do for the logits.
        explored: the share of active features that are nodes; the others count as errors.
    """

    replacement: float
    completeness: float
    explored: float


def shares_of(weights: Float[torch.Tensor, "target node"]) -> Float[torch.Tensor, "target node"]:
    """Edges as shares of all that flows into a target, whatever its sign."""
    size = weights.abs()
    return size / size.sum(1, keepdim=True).clamp_min(1e-10)


def influence_of(
    shares: Float[torch.Tensor, "target node"], logits: Float[torch.Tensor, "logit"]
) -> Float[torch.Tensor, "node"]:
    """Influence of every node on the logits.

    Args:
        shares: targets are the first nodes, then the logits.
        logits: their weights.
    """
    features = len(shares) - len(logits)
    current = logits.to(shares) @ shares[features:]
    total = current.clone()
    while current[:features].any():  # ends with the model's depth: no feature reaches itself
        current = current[:features] @ shares[:features]
        total += current
    return total


def largest(scores: Float[torch.Tensor, "..."], share: float) -> Bool[torch.Tensor, "..."]:
    """The largest scores that make up a share of their sum, and those that are equal to the least of them."""
    sizes = scores.flatten().sort(descending=True).values
    total = sizes.double().cumsum(0)
    if not len(sizes) or total[-1] <= 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    place = int(torch.searchsorted(total / total[-1], torch.tensor(share, dtype=torch.float64)))
    return scores >= sizes[min(place, int((sizes > 0).sum()) - 1)]


def pruned(
    weights: Float[torch.Tensor, "target node"],
    logits: Float[torch.Tensor, "logit"],
    free: Bool[torch.Tensor, "node"],
    nodes: float,
    edges: float,
) -> tuple[Bool[torch.Tensor, "node"], Bool[torch.Tensor, "target node"]]:
    """Nodes and edges that are kept.

    Args:
        weights: targets are the first nodes (features), then the logits, which are the last nodes.
        logits: their weights.
        free: nodes that may go: features and errors.
        nodes, edges: the shares of influence that are kept.
    """
    count = len(weights) - len(logits)
    node = largest(influence_of(shares_of(weights), logits), nodes) | ~free
    target = torch.cat([node[:count], torch.ones(len(logits), dtype=torch.bool)])
    shares = shares_of(weights * target[:, None] * node)
    reach = influence_of(shares, logits)
    flow = shares * torch.cat([reach[:count], logits.to(reach)])[:, None]
    edge = largest(flow, edges) & (flow > 0)
    while True:
        target = torch.cat([node[:count], torch.ones(len(logits), dtype=torch.bool)])
        edge = edge & target[:, None] & node
        node_mask = node & (~free | edge.any(0))
        node_mask[:count] &= edge[:count].any(1)
        if torch.equal(node_mask, node):
            return node, edge
        node = node_mask


def scores_of(
    weights: Float[torch.Tensor, "target node"],
    logits: Float[torch.Tensor, "logit"],
    sources: Bool[torch.Tensor, "node"],
    errors: Bool[torch.Tensor, "node"],
) -> tuple[float, float]:
    """Replacement and completeness, 0 to 1: see `GraphScores`."""
    shares, count = shares_of(weights), len(weights) - len(logits)
    reach = influence_of(shares, logits)
    from_sources, from_errors = float(reach[sources].sum()), float(reach[errors].sum())
    flow = torch.cat([reach[:count], logits.to(reach)])
    complete = float(((1 - shares[:, errors].sum(1)) * flow).sum() / flow.sum())
    return from_sources / max(from_sources + from_errors, 1e-30), complete
