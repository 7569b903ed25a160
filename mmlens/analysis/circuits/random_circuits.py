"""Random circuits: of as many edges as one that was found, all of them on paths; or of its scores, dealt out anew."""

import numpy as np
import torch
from jaxtyping import Bool, Float

from mmlens.analysis.circuits.graph import EdgeGraph
from mmlens.core.errors import InputError

#: Random paths in a row that bring nothing that fits before edges are drawn one by one.
_MOST_MISSES = 200


def permuted_scores(
    graph: EdgeGraph, scores: Float[torch.Tensor, "reader writer"], generator: np.random.Generator
) -> Float[torch.Tensor, "reader writer"]:
    """The same scores, each at another edge.

    Args:
        graph: the writers and readers.
        scores: of all edges.
        generator: draws the edges.
    """
    result = torch.zeros_like(scores)
    values = scores[graph.allowed]
    result[graph.allowed] = values[torch.from_numpy(generator.permutation(len(values)))]
    return result


def random_circuit(graph: EdgeGraph, count: int, generator: np.random.Generator) -> Bool[torch.Tensor, "reader writer"]:
    """So many edges that all lie on paths from an input to the logits: random paths are added until there are enough.

    Args:
        graph: the writers and readers.
        count: how many edges.
        generator: draws the paths.
    """
    if not 1 <= count <= int(graph.allowed.sum()):
        raise InputError(f"count={count} must lie in 1..{int(graph.allowed.sum())}, the number of edges.")
    edges = torch.zeros_like(graph.allowed)
    misses = 0
    while (remainder := count - int(edges.sum())) > 0:
        new = [pair for pair in _random_path(graph, generator) if not edges[pair]]
        if misses > _MOST_MISSES:
            candidates = _joining(graph, edges)
            new = [candidates[int(generator.integers(len(candidates)))]] if candidates else []
            if not candidates:  # no single edge fits between the nodes that there are
                edges[:] = False
        misses = 0 if 0 < len(new) <= remainder else misses + 1
        for pair in new if len(new) <= remainder else ():
            edges[pair] = True
    return edges


def _joining(graph: EdgeGraph, edges: torch.Tensor) -> list[tuple[int, int]]:
    """Edges (reader, writer) not there yet that join nodes which are on a path already."""
    inputs = {name for reader, row in zip(graph.readers, edges, strict=True) if row.any() for name in reader.feeds}
    writers = {writer.name for writer, column in zip(graph.writers, edges.T, strict=True) if column.any()}
    live = torch.tensor([writer.name in graph.inputs | inputs for writer in graph.writers])
    useful = torch.tensor([reader.kind == "logits" or bool(writers & {*reader.feeds}) for reader in graph.readers])
    return [(r, w) for r, w in (graph.allowed & ~edges & live[None] & useful[:, None]).nonzero().tolist()]


def _random_path(graph: EdgeGraph, generator: np.random.Generator) -> list[tuple[int, int]]:
    """Edges (reader, writer) from the logits back to an input, each step drawn at random."""
    path, reader = [], len(graph.readers) - 1
    while True:
        writer = int(generator.choice(graph.allowed[reader].nonzero().flatten().numpy()))
        path.append((reader, writer))
        name = graph.writers[writer].name
        if name in graph.inputs:
            return path
        reader = int(generator.choice(graph.feeders[name]))
