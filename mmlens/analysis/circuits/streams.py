"""Residual streams as the hook-point graph has them: what is added to a stream, and where each branch reads it.

A stream is the chain of points of the role `"stream"` that ends in a given point. What is added to it are the other points
that flow into the chain: embeddings, branches of blocks, and features of the picture that enter between blocks (DeepStack). A
branch reads one point of the chain, and may take keys and values from elsewhere: from its memory.

Where blocks end their branches with a norm of the sum (BART), the chain is no sum across it: every such norm reads the stream in
front of it, and writes the one behind it. The chain then falls into segments, each a sum of its own.
"""

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

from mmlens.core.errors import InputError
from mmlens.core.names import HookName, Part
from mmlens.core.units import block_name
from mmlens.hooks.graph import HookGraph
from mmlens.hooks.nodes import Node

#: The branches that circuits know, by the kind of the point that holds what they add.
_BRANCHES = ("attn_out", "mixer_out", "cross_attn_out", "mlp_out")


@dataclass(frozen=True)
class StreamBranch:
    """A branch of a block.

    Attributes:
        out: the point that holds what it adds.
        block: what the block's points begin with, e.g. `vision.blocks.3`.
        layer: the block's number in its stack.
        kind: `"attn"`, `"mixer"`, `"cross_attn"` or `"mlp"`.
        reads: the point of the stream that it reads, as its place in the order of execution.
        joins: the point of the stream that holds what it added.
        memory: the point that its keys and values are made of, where that is not the stream.
        shared: another branch of the block reads the same point through the same norm.
        bare: there is no norm in front of it.
    """

    out: str
    block: str
    layer: int
    kind: str
    reads: int
    joins: int
    memory: str | None = None
    shared: bool = False
    bare: bool = False

    @property
    def short(self) -> str:
        """The block's short name."""
        return short_block(self.out)


@dataclass(frozen=True)
class Stream:
    """A residual stream.

    Attributes:
        graph: the hook-point graph.
        nodes: its points, in order.
        normed: the points of streams that hold the norm of a sum.
    """

    graph: HookGraph
    nodes: tuple[Node, ...]
    normed: frozenset[str] = frozenset()

    @property
    def end(self) -> str:
        """The name of its last point."""
        return self.nodes[-1].name

    def segment(self, place: int) -> str:
        """The sum that a point belongs to, by the name of its last point.

        Args:
            place: of the point, in the order of execution.
        """
        later = [node for node in self.nodes if self.place[node.name] > place and node.name in self.normed]
        if not later:
            return self.end
        return self.nodes[self.nodes.index(later[0]) - 1].name

    @property
    def norms(self) -> list[tuple[Node, int, str, str]]:
        """The norms that divide it: the point of each, its place, and the segments in front of it and behind."""
        norms = []
        for before, node in pairwise(self.nodes):
            if node.name in self.normed:
                place = self.place[node.name]
                norms.append((node, place, self.segment(self.place[before.name]), self.segment(place)))
        return norms

    @property
    def part(self) -> Part:
        """The tower it runs through."""
        return self.nodes[0].part

    @cached_property
    def place(self) -> dict[str, int]:
        """Every point's place in the order of execution."""
        return {name: number for number, name in enumerate(self.graph.names)}

    @property
    def _instead(self) -> str:
        """What to do where it has something that circuits do not know."""
        if self.part == "vision":
            return "Begin at the language model: towers='language'."
        return "Patch its points with mm.patch or mm.patching.path_patch."

    @cached_property
    def entering(self) -> list[tuple[Node, int]]:
        """What is added to it by no branch of its blocks: embeddings and injected features, with the place where."""
        return [(node, joins) for node, joins in self._added if not (node.role == "writes" and node.layer is not None)]

    @cached_property
    def branches(self) -> list[StreamBranch]:
        """The branches of its blocks, in order.

        Raises:
            InputError: for a branch of another kind, or one that reads another branch beside the stream.
        """
        branches = [
            self._branch(node, joins) for node, joins in self._added if node.role == "writes" and node.layer is not None
        ]
        return sorted(branches, key=lambda branch: self.place[branch.out])

    @property
    def _added(self) -> list[tuple[Node, int]]:
        names = {node.name for node in self.nodes}
        return [
            (self.graph[name], self.place[node.name])
            for node in self.nodes
            for name in self.graph.digraph.predecessors(node.name)
            if name not in names and (name.startswith("projector.") or self.graph[name].role == "writes")
        ]

    def _branch(self, out: Node, joins: int) -> StreamBranch:
        name = HookName.parse(out.name)
        block = out.name.removesuffix(f".{name.rest}")
        reads, memory = self._sources(out, block)
        if out.kind not in _BRANCHES or len(reads) != 1 or len(memory) > 1:
            raise InputError(
                f"Circuits need branches that read one stream: attention, cross-attention, a mixer in the place of attention, "
                f"an MLP. {out.name} is another kind of branch. {self._instead}"
            )
        kind = out.kind.removesuffix("_out")
        if memory and kind != "cross_attn":
            raise InputError(
                f"The keys and values of {block}.{kind} are made of two sequences, of its own rows and of {memory[0]}; circuits "
                f"need attention that looks at one. {self._instead}"
            )
        norm = "ln2" if kind == "mlp" and f"{block}.ln2.hook_scale" in self.graph else "ln1"
        siblings = [other.name for other, place in self._added if place == joins and other.name != out.name]
        is_shared = norm == "ln1" and any(other.startswith(f"{block}.") for other in siblings)
        bare = not has_norms(self.graph, block)
        behind = f"{block}.{norm}.hook_scale" in self.graph and (kind != "mlp" or norm == "ln2" or is_shared)
        if kind != "cross_attn" and not behind and not bare:
            raise InputError(
                f"Circuits need branches that read the stream through a norm; {out.name} has none in front of it. "
                f"{self._instead}"
            )
        looked_at = memory[0] if memory else None
        return StreamBranch(out.name, block, int(name.layer or 0), kind, reads[0], joins, looked_at, is_shared, bare)

    def _sources(self, out: Node, block: str) -> tuple[list[int], list[str]]:
        """The points of the stream that a branch reads, and what else its block reads for it."""
        names = {node.name for node in self.nodes}
        reads: dict[int, None] = {}
        memory: dict[str, None] = {}
        queue = [out.name]
        while queue:
            for name in self.graph.digraph.predecessors(queue.pop()):
                if name in names:
                    reads[self.place[name]] = None
                elif name.startswith(f"{block}.") and self.graph[name].role is None:
                    queue.append(name)
                elif name.startswith(f"{block}."):
                    return [], []  # it reads another branch
                else:
                    memory[name] = None
        return list(reads), list(memory)


def short_block(point: str) -> str:
    """The short name of the block that a point belongs to, as units print it: `L3`, `vision.L3`, `encoder.blocks.L3`."""
    name = HookName.parse(point)
    return block_name(name.part, name.stack or "", name.layer or 0)


def has_norms(graph: HookGraph, block: str) -> bool:
    """Whether a block has a norm in front of its branches."""
    return any(f"{block}.{norm}.hook_scale" in graph for norm in ("ln1", "ln2"))


def stream_to(graph: HookGraph, end: str, norm_inputs: frozenset[str] = frozenset()) -> Stream:
    """The stream that ends in a point; `norm_inputs` as in `Stream`.

    Raises:
        InputError: if there are several.
    """
    nodes = [graph[end]]
    while True:
        before = [graph[name] for name in graph.digraph.predecessors(nodes[-1].name) if graph[name].role == "stream"]
        if len(before) > 1:
            raise InputError(
                f"{nodes[-1].name} joins the streams {', '.join(node.name for node in before)}; circuits need one. Patch its "
                "points with mm.patch or mm.patching.path_patch."
            )
        if not before:
            return Stream(graph, tuple(reversed(nodes)), norm_inputs)
        nodes += before


def streams_behind(graph: HookGraph, name: str, part: Part) -> list[str]:
    """The points of a tower's streams that a point is computed from, with no other point of its streams between."""
    ends: dict[str, None] = {}
    known_names, queue = {name}, [name]
    while queue:
        here = queue.pop()
        if graph[here].part == part and graph[here].role == "stream":
            ends[here] = None
            continue
        new = [before for before in graph.digraph.predecessors(here) if before not in known_names]
        known_names.update(new)
        queue += new
    return list(ends)
