"""What finding a circuit will take, told from the graph before anything runs."""

from dataclasses import dataclass

import torch

from mmlens.analysis.circuits.dataset import PairData
from mmlens.analysis.circuits.method import CircuitMethod
from mmlens.hooks.branch_inputs import KINDS


@dataclass(frozen=True)
class Outlook:
    """What finding a circuit will take.

    Attributes:
        edges, readers, writers: how many there are.
        forward, backward: passes of the whole model, the clean and the ablated run and a check of heads among them.
        heads: gradients of single heads' queries, keys and values that are pulled back through their projection besides.
        kept: memory of what a batch's writers wrote in both runs, in bytes; a backward pass keeps a forward pass's
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


def outlook(data: PairData, method: CircuitMethod) -> Outlook:
    """What a method will take on a dataset; nothing runs.

    Args:
        data: the pairs and the graph.
        method: scores the edges.
    """
    model, graph = data.model, data.graph
    batches = [clean for clean, _ in data.pairs]
    forward, backward = method.passes(graph, len(batches))
    split = sum(reader.kind in KINDS for reader in graph.readers)
    size = torch.empty(0, dtype=next(model.hf_model.parameters()).dtype).element_size()
    numbers = 0
    for name in dict.fromkeys(writer.point for writer in graph.writers):
        node = model.graph[name]
        wide = (node.width or 1) * (node.units or 1 if "head" in node.axes.split() else 1)
        numbers += max(batch.size * (batch.layout.length(node.sequence) or 1) for batch in batches) * wide
    means = data.ablation.ablation.means() is not None
    return Outlook(
        int(graph.allowed.sum()),
        len(graph.readers),
        len(graph.writers),
        (2 + bool(split) + means) * len(batches) + forward,
        backward,
        split * backward,
        2 * numbers * size,
    )
