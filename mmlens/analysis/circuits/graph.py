"""The graph that circuits are made of: who writes into a residual stream, and who reads it.

Nodes are attention heads (or whole attention branches), MLPs, the projector, and the embeddings by groups of positions. The
residual stream is a sum, so what a reader receives is a sum over all writers before it: every pair (writer, reader) on one
stream is an edge. The vision encoder's stream ends in the projector, which writes the rows of the picture into the language
model's stream.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeAlias

import torch
from jaxtyping import Bool

from mmlens.core.errors import InputError
from mmlens.core.names import Part, part_prefix
from mmlens.core.places import Positions
from mmlens.models.batch import MultimodalBatch
from mmlens.models.hooked import HookedMultimodal

NodeKind: TypeAlias = Literal["head", "attention"]
Towers: TypeAlias = Literal["all", "language"]
#: Behind every block.
_END = 1 << 30


@dataclass(frozen=True)
class Writer:
    """Something whose output is added to a residual stream.

    Attributes:
        name: e.g. `L3.h2`, `vision.L0.mlp`, `embed[text]`, `projector`.
        part: the tower whose stream it writes into.
        point: the hook point that holds what it writes, or, for heads, what `W_O` is applied to.
        layer: its block, or -1 for embeddings.
        head: its number, or None.
        group: the group of positions, for embeddings of the language model.
    """

    name: str
    part: Part
    point: str
    layer: int
    head: int | None = None
    group: str | None = None

    @property
    def order(self) -> tuple[int, int]:
        """When it writes."""
        return self.layer, int(self.point.endswith("hook_mlp_out"))


@dataclass(frozen=True)
class Reader:
    """Something that reads a residual stream.

    Attributes:
        name: e.g. `L3.h2.q`, `L3.mlp`, `vision.L0.attn`, `projector`, `logits`.
        part: the tower whose stream it reads.
        kind: what it reads as.
        layer: its block; behind all blocks for the projector and the logits.
        head: its number (that of the group, for grouped keys and values), or None.
        feeds: the writers that it is part of; none for the logits.
    """

    name: str
    part: Part
    kind: Literal["q", "k", "v", "attn", "mlp", "projector", "logits"]
    layer: int
    head: int | None = None
    feeds: tuple[str, ...] = ()

    @property
    def order(self) -> tuple[int, int]:
        """When it reads: everything written before is its input."""
        return self.layer, int(self.kind == "mlp")


@dataclass(frozen=True)
class EdgeGraph:
    """All writers and readers, in execution order.

    Attributes:
        writers, readers: the nodes' two sides.
        nodes: whether attention is split into heads.
        towers: whether the vision encoder is part of it.
        groups: the position rule of each group of embeddings.
    """

    writers: tuple[Writer, ...]
    readers: tuple[Reader, ...]
    nodes: NodeKind
    towers: Towers
    groups: Mapping[str, Positions]

    @cached_property
    def allowed(self) -> Bool[torch.Tensor, "reader writer"]:
        """Which pairs are edges: the writer writes before the reader reads, into the same stream."""
        pairs = [[w.part == r.part and w.order < r.order for w in self.writers] for r in self.readers]
        return torch.tensor(pairs)

    @cached_property
    def inputs(self) -> set[str]:
        """Writers that no reader feeds: the embeddings, and the projector where the vision encoder is left out."""
        fed = {name for reader in self.readers for name in reader.feeds}
        return {writer.name for writer in self.writers} - fed

    def connected(self, edges: Bool[torch.Tensor, "reader writer"]) -> Bool[torch.Tensor, "reader writer"]:
        """Those edges that lie on a path from an input to the logits."""
        number = {writer.name: i for i, writer in enumerate(self.writers)}
        edges = edges & self.allowed
        while True:
            live = torch.tensor([writer.name in self.inputs for writer in self.writers])
            for reader, row in zip(self.readers, edges, strict=True):
                if row.any():
                    live[[number[name] for name in reader.feeds]] = True
            wanted = edges.any(0)
            useful = [
                reader.kind == "logits" or any(wanted[number[name]] for name in reader.feeds) for reader in self.readers
            ]
            kept = edges & live[None] & torch.tensor(useful)[:, None]
            if torch.equal(kept, edges):
                return kept
            edges = kept


def edge_graph(
    model: HookedMultimodal,
    batch: MultimodalBatch,
    *,
    nodes: NodeKind,
    groups: Mapping[str, Positions],
    towers: Towers,
) -> EdgeGraph:
    """The graph of a model, with the embeddings in groups.

    Args:
        model: the hooked model.
        batch: says which groups are picture and which are text.
        nodes: `"head"` or `"attention"`.
        groups: position rules by name; a position belongs to the last group that names it.
        towers: `"all"`, or `"language"` to begin at the language model's embeddings.

    Raises:
        InputError: if the family's streams are no plain sums of branches (the message says what is in the way), or a group
            mixes picture and text.
    """
    _refuse_other_streams(model, nodes)
    writers: list[Writer] = []
    readers: list[Reader] = []
    if towers == "all":
        handed_on = _vision_end(model)
        _refuse_blocks(model, "vision", handed_on + 1, nodes)
        writers.append(Writer("vision.embed", "vision", "vision.hook_embed", -1))
        _add_blocks(model, "vision", handed_on + 1, nodes, writers, readers)
    masks = group_masks(batch, groups)
    embeddings = []
    for name, mask in masks.items():
        embeddings.append(_embedding(name, mask, batch))
    pictured = tuple(writer.name for writer in embeddings if writer.name.startswith("projector"))
    if towers == "all":
        readers.append(Reader("projector", "vision", "projector", _END, feeds=pictured))
    writers += embeddings
    _add_blocks(model, "language", model.cfg.n_layers, nodes, writers, readers)
    readers.append(Reader("logits", "language", "logits", _END))
    return EdgeGraph(tuple(writers), tuple(readers), nodes, towers, dict(groups))


def group_masks(batch: MultimodalBatch, groups: Mapping[str, Positions]) -> dict[str, torch.Tensor]:
    """Which positions belong to each group, `[batch pos]`; positions that none names are the group `rest`.

    Raises:
        InputError: for a group whose positions later groups all take.
    """
    layout = batch.layout
    number = torch.full(layout.is_token.shape, -1)
    for index, rule in enumerate(groups.values()):
        if isinstance(rule, str) and rule in ("image", "text"):
            mask = layout.is_image if rule == "image" else layout.is_token & ~layout.is_image
        else:
            rows = layout.rows(rule, "language")
            rows = rows.expand(batch.size, -1) if rows.ndim == 1 else rows
            mask = torch.zeros_like(layout.is_token).scatter(1, rows, True)
        number[mask] = index
    masks = {name: number == index for index, name in enumerate(groups)}
    empty = [name for name, mask in masks.items() if not mask.any()]
    if empty:
        raise InputError(
            f"The groups {', '.join(empty)} hold no position: there are none of the kind, or later groups name them all; a "
            "position belongs to the last group that names it."
        )
    if (number < 0).any():
        masks["rest"] = number < 0
    return masks


def _embedding(name: str, mask: torch.Tensor, batch: MultimodalBatch) -> Writer:
    pictured = batch.layout.is_image[mask]
    if pictured.any() and not pictured.all():
        raise InputError(
            f"The group {name!r} mixes positions of picture and text, which are written by different nodes; make two groups of "
            "it."
        )
    full = f"embed[{name}]" if not pictured.any() else "projector" if name == "image" else f"projector[{name}]"
    return Writer(full, "language", "hook_embed", -1, group=name)


def _add_blocks(
    model: HookedMultimodal, part: Part, depth: int, nodes: NodeKind, writers: list[Writer], readers: list[Reader]
) -> None:
    """The nodes of a tower's blocks."""
    view, before = model.part(part), part_prefix(part)
    for layer in range(depth):
        block, short = f"{before}blocks.{layer}", f"{before}L{layer}"
        attn = view.blocks[layer].attn
        branch = "attn" if f"{block}.hook_attn_out" in model.graph else "mixer"
        if nodes == "attention" or branch == "mixer" or attn is None:
            writers.append(Writer(f"{short}.{branch}", part, f"{block}.hook_{branch}_out", layer))
            readers.append(Reader(f"{short}.{branch}", part, "attn", layer, feeds=(f"{short}.{branch}",)))
        else:
            heads, grouped = attn.heads, attn.kv_heads
            names = [f"{short}.h{head}" for head in range(heads)]
            writers += [Writer(n, part, f"{block}.attn.hook_z", layer, head=h) for h, n in enumerate(names)]
            readers += [Reader(f"{n}.q", part, "q", layer, h, (n,)) for h, n in enumerate(names)]
            each = heads // grouped
            for kind in ("k", "v"):
                for group in range(grouped):
                    own = names[group * each : (group + 1) * each]
                    name = f"{own[0]}.{kind}" if each == 1 else f"{short}.kv{group}.{kind}"
                    readers.append(Reader(name, part, kind, layer, group, tuple(own)))  # type: ignore[arg-type]
        writers.append(Writer(f"{short}.mlp", part, f"{block}.hook_mlp_out", layer))
        readers.append(Reader(f"{short}.mlp", part, "mlp", layer, feeds=(f"{short}.mlp",)))


_NEEDED = ("ln1.hook_scale", "hook_resid_mid", "ln2.hook_scale", "hook_mlp_out")


def _refuse_blocks(model: HookedMultimodal, part: Part, depth: int, nodes: NodeKind) -> None:
    """Every block must be two branches, each behind a norm of its own, added to the stream one after the other."""
    for layer in range(depth):
        block = f"{part_prefix(part)}blocks.{layer}"
        lacking = [f"{block}.{point}" for point in _NEEDED if f"{block}.{point}" not in model.graph]
        if lacking:
            raise InputError(
                f"Circuits need blocks of two branches, each behind a norm of its own and added to the stream in turn; "
                f"{model.family.name} lacks {', '.join(lacking[:3])}. Patch its points with mm.patch or mm.path_patch."
            )
        mixes = f"{block}.hook_mixer_out" in model.graph
        apart = [f"{block}.attn.hook_{kind}" for kind in ("q", "k", "v", "z")]
        if nodes == "head" and not mixes and not all(name in model.graph for name in apart):
            raise InputError(
                f"The heads of {block} of {model.family.name} cannot be told apart: it has no {apart[0]}. Use nodes='attention'."
            )


def _refuse_other_streams(model: HookedMultimodal, nodes: NodeKind) -> None:
    """The language model must be one stack that reads the picture in its embeddings alone."""
    graph = model.graph
    others = [name for name in graph.names if name.startswith("projector.deepstack") or _is_beside(name)]
    if others or "ln_final.hook_scale" not in graph or graph["hook_embed"].sequence != "language":
        raise InputError(
            f"Circuits need a language model whose stream is the sum of its embeddings and its branches; {model.family.name} "
            f"also has {others[0] if others else 'no final norm'}. Patch its points with mm.patch or mm.path_patch."
        )
    _refuse_blocks(model, "language", model.cfg.n_layers, nodes)


def _is_beside(name: str) -> bool:
    """Whether a point of the language model is outside of its one stack of self-attending blocks."""
    if name.startswith(("vision.", "projector.")):
        return False
    return "cross_attn" in name or (".blocks." in name and not name.startswith("blocks."))


def _vision_end(model: HookedMultimodal) -> int:
    """The block of the vision encoder whose stream the projector reads.

    Raises:
        InputError: if there is no one such block.
    """
    read = [model.graph[name] for name in model.graph.digraph.predecessors("projector.hook_in")]
    if len(read) != 1 or read[0].role != "stream" or read[0].stack != "blocks" or read[0].layer is None:
        raise InputError(
            f"The projector of {model.family.name} reads {', '.join(node.name for node in read)}; circuits across towers "
            "need one stream that ends in it. Begin at the language model: towers='language'."
        )
    return read[0].layer


def vision_end(model: HookedMultimodal) -> str:
    """The hook name of the stream that the projector reads."""
    return f"vision.blocks.{_vision_end(model)}.hook_resid_post"
