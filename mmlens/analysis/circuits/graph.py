"""The graph that circuits are made of: who writes into a residual stream, and who reads it.

Nodes are attention heads (or whole attention branches), MLPs, the projector, and the embeddings by groups of positions. A
residual stream is a sum, so what a reader receives is a sum over all writers before it: every pair (writer, reader) on one
stream is an edge. Between two streams stands a node that reads the one and writes into the other: the projector and the mergers
of DeepStack between vision encoder and language model, the final norm of an encoder between it and its decoder. What
cross-attention takes keys and values from is a stream too, with this node for its only writer. A norm behind the heads or behind
a branch divides a stream likewise: it reads the sum in front of it, and what it writes is a part of the sum behind it.

In a graph of nodes (`by_node`) there is one reader, which stands for all: a node is there with all that reads it, or not at all.
So neurons and features of dictionaries can be nodes, and models whose streams are no plain sums have circuits.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeAlias

import torch
from jaxtyping import Bool

from mmlens.core.names import Part
from mmlens.core.rules import Rule
from mmlens.core.units import Unit

NodeKind: TypeAlias = Literal["head", "attention", "neuron", "feature"]
ReaderKind: TypeAlias = Literal["q", "k", "v", "attn", "memory", "mlp", "bridge", "logits"]
Towers: TypeAlias = Literal["all", "language"]
#: The one reader of a graph of nodes.
EVERYTHING = "all"


@dataclass(frozen=True)
class Writer:
    """Something whose output is added to a residual stream.

    Attributes:
        name: e.g. `L3.h2`, `L3.x2` (a head of cross-attention), `vision.L0.mlp`, `embed[text]`, `projector`; of neurons and
            features as units print themselves.
        part: the tower whose stream it writes into.
        point: the hook point that holds what it writes, or, for heads, what `W_O` is applied to.
        stream: the stream.
        joins: the place, in the order of execution, of the first point of the stream that holds what it wrote.
        layer: its block, or -1 outside of blocks.
        index: its number among the units of the point, or None where it is none of several.
        group: the group of positions, for embeddings of the prompt.
        branch: the hook point of the branch whose output it is, or a part of; else an empty text.
    """

    name: str
    part: Part
    point: str
    stream: str
    joins: int
    layer: int = -1
    index: int | None = None
    group: str | None = None
    branch: str = ""

    @property
    def unit(self) -> Unit | None:
        """The head, neuron or feature that it is, or None."""
        return None if self.index is None else Unit.parse(self.name)


@dataclass(frozen=True)
class Reader:
    """Something that reads a residual stream.

    Attributes:
        name: e.g. `L3.h2.q`, `L3.mlp`, `vision.L0.attn`, `projector`, `logits`.
        part: the tower whose stream it reads.
        kind: what it reads as; a `"bridge"` writes into another stream, `"memory"` is what whole cross-attention takes keys
            and values from.
        at: the hook point or entrance where it receives the stream.
        stream: the stream.
        reads: the place, in the order of execution, of the point of the stream that it reads.
        head: its number (that of the group, for grouped keys and values), or None.
        feeds: the writers that it is part of; none for the logits.
        attn: what the hook points of its attention begin with, for queries, keys and values.
    """

    name: str
    part: Part
    kind: ReaderKind
    at: str
    stream: str
    reads: int
    head: int | None = None
    feeds: tuple[str, ...] = ()
    attn: str = ""


@dataclass(frozen=True)
class EdgeGraph:
    """All writers and readers, in execution order.

    Attributes:
        writers, readers: the nodes' two sides.
        nodes: what attention and MLPs are split into.
        towers: whether the vision encoder is part of it.
        groups: the position rule of each group of embeddings.
    """

    writers: tuple[Writer, ...]
    readers: tuple[Reader, ...]
    nodes: NodeKind
    towers: Towers
    groups: Mapping[str, Rule]

    @property
    def by_node(self) -> bool:
        """Whether it is a graph of nodes."""
        return self.readers[0].name == EVERYTHING

    @cached_property
    def allowed(self) -> Bool[torch.Tensor, "reader writer"]:
        """Which pairs are edges: the writer writes before the reader reads, into the same stream."""
        streams = [writer.stream for writer in self.writers] + [reader.stream for reader in self.readers]
        number = {name: i for i, name in enumerate(dict.fromkeys(streams))}
        stream_numbers, joins = torch.tensor([(number[writer.stream], writer.joins) for writer in self.writers]).T
        read, reads = torch.tensor([(number[reader.stream], reader.reads) for reader in self.readers]).T
        return (read[:, None] == stream_numbers) & (joins <= reads[:, None])

    @cached_property
    def inputs(self) -> set[str]:
        """Writers that no reader feeds: the embeddings, and the projector where the vision encoder is left out."""
        names = {name for reader in self.readers for name in reader.feeds}
        return {writer.name for writer in self.writers} - names

    @cached_property
    def feeders(self) -> dict[str, list[int]]:
        """The numbers of the readers that feed each writer."""
        numbers: dict[str, list[int]] = {}
        for number, reader in enumerate(self.readers):
            for name in reader.feeds:
                numbers.setdefault(name, []).append(number)
        return numbers

    @property
    def starts(self) -> set[str]:
        """Writers that a path from the clean to the ablated run begins at: the embeddings, or the first nodes there are."""
        if not self.by_node:
            return self.inputs
        if self.nodes == "feature":
            return {writer.name for writer in self.writers if writer.joins == self.writers[0].joins}
        is_later = ("projector",) if self.towers == "all" else ()
        return {w.name for w in self.writers if w.layer < 0 and not w.name.startswith(is_later)}

    def connected(self, edges: Bool[torch.Tensor, "reader writer"]) -> Bool[torch.Tensor, "reader writer"]:
        """Those edges that lie on a path from an input to the logits."""
        number = {writer.name: i for i, writer in enumerate(self.writers)}
        edges = edges & self.allowed
        while True:
            live = torch.tensor([writer.name in self.inputs for writer in self.writers])
            for reader, row in zip(self.readers, edges, strict=True):
                if row.any():
                    live[[number[name] for name in reader.feeds]] = True
            is_read = edges.any(0)
            useful = [
                reader.kind == "logits" or any(is_read[number[name]] for name in reader.feeds)
                for reader in self.readers
            ]
            result = edges & live[None] & torch.tensor(useful)[:, None]
            if torch.equal(result, edges):
                return result
            edges = result
