"""What finding a circuit will take, told from the graph before anything runs."""

from dataclasses import dataclass

import torch

from mmlens.analysis.circuits.graph import EdgeGraph
from mmlens.analysis.circuits.method import CircuitMethod
from mmlens.hooks.branch_inputs import KINDS
from mmlens.inputs.batch import MultimodalBatch
from mmlens.models.hooked import HookedMultimodal


@dataclass(frozen=True)
class Outlook:
    """What finding a circuit will take.

    Attributes:
        edges, readers, writers: how many there are.
        forward, backward: passes of the whole model, the clean and the corrupted run and a check of heads among them.
        heads: gradients of single heads' queries, keys and values that are pulled back through their projection besides.
        kept: memory of what writers wrote in both runs and the difference, in bytes; a backward pass keeps a forward pass's
            activations besides.
    """

    edges: int
    readers: int
    writers: int
    forward: int
    backward: int
    heads: int
    kept: int

    def __str__(self) -> str:
        back = f" and {self.backward:,} backward" if self.backward else ""
        heads = f", {self.heads:,} gradients of single heads" if self.heads else ""
        return (
            f"{self.edges:,} edges from {self.writers:,} writers to {self.readers:,} readers: {self.forward:,} forward{back} "
            f"passes{heads}, {self.kept / 2**20:,.0f} MiB kept"
        )


def outlook(model: HookedMultimodal, batch: MultimodalBatch, graph: EdgeGraph, method: CircuitMethod) -> Outlook:
    """What a method will take on a graph; nothing runs.

    Args:
        model: the hooked model.
        batch: the clean or the corrupted one.
        graph: the writers and readers.
        method: scores the edges.
    """
    forward, backward = method.passes(graph)
    split = sum(reader.kind in KINDS for reader in graph.readers)
    size = torch.empty(0, dtype=next(model.hf_model.parameters()).dtype).element_size()
    numbers = 0
    for name in dict.fromkeys(writer.point for writer in graph.writers):
        node = model.graph[name]
        wide = (node.width or 1) * (node.units or 1 if "head" in node.axes.split() else 1)
        numbers += batch.size * (batch.layout.length(node.sequence) or 1) * wide
    return Outlook(
        int(graph.allowed.sum()),
        len(graph.readers),
        len(graph.writers),
        2 + bool(split) + forward,
        backward,
        split * backward,
        3 * numbers * size,
    )
