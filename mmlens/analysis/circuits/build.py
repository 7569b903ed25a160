"""From a model's hook points to the graph of its writers and readers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mmlens.analysis.circuits.branch_points import entrance_of, memory_of, norm_behind, short_name
from mmlens.analysis.circuits.graph import EdgeGraph, NodeKind, Reader, ReaderKind, Towers, Writer
from mmlens.analysis.circuits.groups import GroupNames
from mmlens.analysis.circuits.streams import Stream, StreamBranch, has_norms, short_block, stream_to, streams_behind
from mmlens.architectures.weights import AttentionWeights
from mmlens.core.errors import InputError
from mmlens.core.rules import Rule
from mmlens.hooks.attention import kernel_of
from mmlens.hooks.graph import HookGraph
from mmlens.hooks.indirect import BetweenBranches
from mmlens.hooks.nodes import Node
from mmlens.inputs.batch import MultimodalBatch
from mmlens.models.decoder import attention_of
from mmlens.models.hooked import HookedMultimodal, WritingModel


def edge_graph(
    model: WritingModel,
    batches: Sequence[MultimodalBatch],
    *,
    nodes: NodeKind,
    groups: Mapping[str, Rule],
    towers: Towers,
) -> EdgeGraph:
    """The graph of a model, with the embeddings in groups.

    Args:
        model: the hooked model.
        batches: say which groups there are, and which of them are picture and which text.
        nodes: `"head"` or `"attention"`.
        groups: position rules by name; a position belongs to the last group that names it.
        towers: `"all"`, or `"language"` to begin at the language model's embeddings.

    Raises:
        InputError: if the family's streams are no plain sums of branches (the message says what is in the way), or a group
            mixes picture and text.
    """
    build = _Build(model, nodes, GroupNames.of(model, batches, groups))
    graph = model.graph
    last = build.stream_to(streams_behind(graph, "hook_logits", "language")[0])
    streams = [*build.encoders(last), last]
    if towers == "all":
        build.vision(streams)
    for stream in streams:
        build.stream(stream)
    at = "ln_final.hook_in" if "ln_final.hook_scale" in graph else last.end
    build.readers.append(Reader("logits", "language", "logits", at, last.end, last.place[last.end]))
    return EdgeGraph(tuple(build.writers), tuple(build.readers), nodes, towers, dict(groups))


@dataclass
class _Build:
    """The nodes found so far, in execution order.

    Attributes:
        model: the hooked model.
        nodes: whether attention is split into heads.
        groups: the groups of embeddings.
    """

    model: HookedMultimodal
    nodes: NodeKind
    groups: GroupNames
    writers: list[Writer] = field(default_factory=list)
    readers: list[Reader] = field(default_factory=list)

    @property
    def graph(self) -> HookGraph:
        """The model's hook points."""
        return self.model.graph

    def stream_to(self, end: str) -> Stream:
        """The stream that ends in a point, divided at norms of sums."""
        norm_inputs = {node.name for node in self.graph if node.role == "stream" and self._is_normed(node)}
        return stream_to(self.graph, end, frozenset(norm_inputs))

    def _is_normed(self, node: Node) -> bool:
        """Whether a block without norms in front of its branches has one behind them, whose output the stream is."""
        block = node.name.rpartition(".")[0]
        middle = self.model.hook_dict.get(f"{block}.hook_resid_mid")
        if middle is None or node.kind == "resid_pre" or has_norms(self.graph, block):
            return False
        return not isinstance(middle.attachment, BetweenBranches)

    def encoders(self, last: Stream) -> list[Stream]:
        """The streams of the language model that others look at: that of an encoder."""
        memories = dict.fromkeys(branch.memory for branch in last.branches if branch.memory)
        ends = dict.fromkeys(end for memory in memories for end in streams_behind(self.graph, memory, "language"))
        return [self.stream_to(end) for end in ends]

    def vision(self, streams: list[Stream]) -> None:
        """The vision encoder, and what stands between it and the language model's streams.

        Raises:
            InputError: if the language model gets the features of several blocks side by side.
        """
        read = [self.graph[name] for name in self.graph.digraph.predecessors("projector.hook_in")]
        if len(read) != 1 or read[0].role != "stream":
            raise InputError(
                f"The projector of {self.model.family.name} reads {', '.join(node.name for node in read)}; circuits across "
                "towers need one stream that ends in it. Begin at the language model: towers='language'."
            )
        stream = self.stream_to(read[0].name)
        self.stream(stream)
        for point, feeds in self._pictured(streams).items():
            ends = streams_behind(self.graph, point, "vision")
            if len(ends) != 1 or ends[0] not in {node.name for node in stream.nodes}:
                raise InputError(
                    f"{point} of {self.model.family.name} is made of {', '.join(ends)}; circuits across towers need one stream "
                    f"that ends in {stream.end}. Begin at the language model: towers='language'."
                )
            read_at = ends[0]
            alone = sum(self.graph[name].dead is None for name in self.graph.digraph.successors(read_at)) == 1
            at = read_at if alone else f"{point.removesuffix('.hook_out')}.hook_in"
            name = short_name(point)
            place = stream.place[read_at]
            self.readers.append(Reader(name, "vision", "bridge", at, stream.segment(place), place, feeds=feeds))

    def _pictured(self, streams: list[Stream]) -> dict[str, tuple[str, ...]]:
        """The points that bring the picture into the language model, each with the writers that hold its features."""
        sources: dict[str, dict[str, None]] = {}
        for stream in streams:
            for node, _ in stream.entering:
                if node.part == "projector":
                    sources.setdefault(node.name, {})[short_name(node.name)] = None
                for before in self.graph.digraph.predecessors(node.name) if node.role == "writes" else ():
                    projections = [name for name in self._embeddings(node).values() if name.startswith("projector")]
                    sources.setdefault(before, {}).update(dict.fromkeys(projections))
            for branch in stream.branches:
                if branch.memory is not None and self.graph[branch.memory].part == "projector":
                    sources.setdefault(branch.memory, {})[short_name(branch.memory)] = None
        return {point: tuple(names) for point, names in sources.items()}

    def stream(self, stream: Stream) -> None:
        """All nodes of a stream."""
        for node, joins in stream.entering:
            for group, name in self._embeddings(node).items():
                self.writers.append(Writer(name, stream.part, node.name, stream.segment(joins), joins, group=group))
            if not self._is_prompt(node):
                plain = {"vision": node.name.replace("hook_", ""), "projector": short_name(node.name)}
                name = plain.get(node.part, f"embed[{node.sequence}]")
                self.writers.append(Writer(name, stream.part, node.name, stream.segment(joins), joins))
        memories: dict[str, None] = {}
        norms = list(stream.norms)
        for branch in stream.branches:
            while norms and norms[0][1] < stream.place[branch.out]:
                self._norm(stream, *norms.pop(0))
            if branch.memory is not None and branch.memory not in memories:
                memories[branch.memory] = None
                self._memory(branch.memory, stream)
            if self.nodes == "head" and self._has_heads(branch):
                self._heads(stream, branch)
            else:
                self._whole(stream, branch)
        for norm in norms:
            self._norm(stream, *norm)

    def _norm(self, stream: Stream, node: Node, place: int, before: str, behind: str) -> None:
        """A norm that reads one segment of a stream and writes the next."""
        name = f"{short_block(node.name)}.{node.kind.replace('resid', 'ln')}"
        self.readers.append(Reader(name, stream.part, "bridge", f"{node.name}.hook_in", before, place, feeds=(name,)))
        self.writers.append(Writer(name, stream.part, node.name, behind, place, int(node.layer or 0)))

    @staticmethod
    def _is_prompt(node: Node) -> bool:
        """Whether a point holds the embeddings of the prompt."""
        return node.part == "language" and node.sequence == "language"

    def _embeddings(self, node: Node) -> dict[str, str]:
        """The writers of the prompt's embeddings by group; none where a point holds others."""
        if not self._is_prompt(node):
            return {}
        return self.groups.writers(has_pictures=bool(list(self.graph.digraph.predecessors(node.name))))

    def _memory(self, point: str, stream: Stream) -> None:
        """What cross-attention takes keys and values from, and for an encoder what reads its stream."""
        if self.graph[point].role == "stream":
            return  # keys and values are made of an encoder's stream itself
        place = stream.place[point]
        self.writers.append(Writer(short_name(point), "language", point, point, place))
        if self.graph[point].part == "language":
            (end,) = streams_behind(self.graph, point, "language")
            at = point.replace("hook_out", "hook_in")
            self.readers.append(
                Reader(short_name(point), "language", "bridge", at, end, stream.place[end], feeds=(short_name(point),))
            )

    def _has_heads(self, branch: StreamBranch) -> bool:
        """Whether a branch is attention whose heads can be told apart.

        Raises:
            InputError: if it is attention in code of its own.
        """
        if branch.kind not in ("attn", "cross_attn"):
            return False
        prefix = f"{branch.block}.{branch.kind}"
        if kernel_of(self.model.hook_dict, prefix) is None:
            raise InputError(
                f"The heads of {branch.block} of {self.model.family.name} cannot be told apart: it has no "
                f"{prefix}.hook_pattern. Use nodes='attention'."
            )
        return True

    def _heads(self, stream: Stream, branch: StreamBranch) -> None:
        attn = attention_of(self.model, prefix := f"{branch.block}.{branch.kind}")
        segment = stream.segment(branch.reads)
        total = self._behind_heads(stream, branch, attn)
        letter, part = ("x" if branch.kind == "cross_attn" else "h"), stream.part
        names = [f"{branch.short}.{letter}{head}" for head in range(attn.heads)]
        for head, name in enumerate(names):
            self.writers.append(
                Writer(
                    name,
                    part,
                    f"{prefix}.hook_z",
                    total or segment,
                    stream.place[f"{prefix}.hook_z"] if total else branch.joins,
                    branch.layer,
                    head,
                    branch="" if total else branch.out,
                )
            )
        at = entrance_of(branch)
        for head, name in enumerate(names):
            self.readers.append(Reader(f"{name}.q", part, "q", at, segment, branch.reads, head, (name,), prefix))
        shared_kinds = "xkv" if branch.kind == "cross_attn" else "kv"
        group_size = attn.heads // attn.kv_heads
        memory, place = self._looked_at(stream, branch)
        at = at if branch.memory is None else memory_of(branch)
        for kind in ("k", "v"):
            for group in range(attn.kv_heads):
                group_heads = names[group * group_size : (group + 1) * group_size]
                name = f"{group_heads[0]}.{kind}" if group_size == 1 else f"{branch.short}.{shared_kinds}{group}.{kind}"
                self.readers.append(Reader(name, part, kind, at, memory, place, group, tuple(group_heads), prefix))

    def _behind_heads(self, stream: Stream, branch: StreamBranch, attn: AttentionWeights) -> str | None:
        """The sum of the heads' outputs as a stream of its own, where a norm of it is what the branch adds; None elsewhere.

        The norm is a node, which reads this sum and writes into the stream (the sandwich norms of Gemma and GLM).
        """
        norm = norm_behind(self.model, branch.out, attn)
        if norm is None:
            return None
        name, place, inner = f"{branch.short}.ln_{branch.kind}", stream.place[branch.out], f"{branch.out}.hook_in"
        self.readers.append(Reader(name, stream.part, "bridge", inner, inner, place, feeds=(name,)))
        segment = stream.segment(branch.reads)
        self.writers.append(
            Writer(name, stream.part, branch.out, segment, branch.joins, branch.layer, branch=branch.out)
        )
        return inner

    def _whole(self, stream: Stream, branch: StreamBranch) -> None:
        name = f"{branch.short}.{branch.kind.removesuffix('_attn')}"
        part = stream.part
        kind: ReaderKind = "mlp" if branch.kind == "mlp" else "attn"
        segment = stream.segment(branch.reads)
        writer = Writer(name, part, branch.out, segment, branch.joins, branch.layer, branch=branch.out)
        self.writers.append(writer)
        at = entrance_of(branch)
        self.readers.append(Reader(name, part, kind, at, segment, branch.reads, feeds=(name,)))
        if branch.memory is not None:
            memory, place = self._looked_at(stream, branch)
            self.readers.append(
                Reader(f"{name}.memory", part, "memory", memory_of(branch), memory, place, feeds=(name,))
            )

    def _looked_at(self, stream: Stream, branch: StreamBranch) -> tuple[str, int]:
        """The stream that keys and values are made of, and the place where it is read."""
        if branch.memory is None:
            return stream.segment(branch.reads), branch.reads
        return branch.memory, stream.place[branch.memory]
