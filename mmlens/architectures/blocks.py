"""One block's hook points, in execution order: streams, branches, attention, MLP."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast

from torch import nn

from mmlens.architectures.attention_points import add_attention
from mmlens.architectures.modules import find_module
from mmlens.architectures.point_collector import Collector
from mmlens.core.errors import UnsupportedModelError
from mmlens.declarations.rows import Rows
from mmlens.declarations.structure import Block, Config, Mlp, Norm, Scale, Stack
from mmlens.hooks.attachment import AtSite, Attachment
from mmlens.hooks.indirect import BetweenBranches
from mmlens.hooks.mixture import Unflattened
from mmlens.hooks.nodes import Role


def fitting(kinds: tuple[Block, ...], block: nn.Module) -> Block:
    """The first kind of block whose modules this block has, and whose own rule, if there is one, it follows.

    Raises:
        UnsupportedModelError: if none fits; says which module each kind lacks.
    """
    lacks = []
    for kind in kinds:
        missing = [path for path in _paths(kind) if find_module(block, path) is None]
        if not missing and (kind.when is None or kind.when(block)):
            return kind
        lacks.append(missing[0] if missing else "what Block.when asks for")
    children = ", ".join(name for name, _ in block.named_children())
    raise UnsupportedModelError(
        f"{type(block).__name__} is none of the kinds of block that were declared: it lacks {' and '.join(lacks)}; it has "
        f"{children}."
    )


def heads_of(stack: Stack, kind: Block, block: nn.Module, config: Config) -> int:
    """Number of attention heads of a block; 1 where it has no attention.

    Args:
        stack: the stack that it is in.
        kind: its structure.
        block: the block.
        config: the model's configuration.
    """
    heads = None if kind.attn is None else kind.attn.heads
    if heads is not None:
        return heads(block)
    if all(
        block_kind.cross is None and (block_kind.attn is None or block_kind.attn.heads is not None)
        for block_kind in stack.kinds
    ):
        return 1  # blocks of this stack say it themselves, and this one has no attention
    return stack.heads(stack.config(config))


def blocks_of(entries: nn.Module, stack: Stack) -> list[nn.Module]:
    """The blocks of a stack, given its list."""
    modules = list(cast(nn.ModuleList, entries))
    return [module.get_submodule(name) for module in modules for name in stack.within] if stack.within else modules


def _paths(kind: Block) -> list[str]:
    """The modules that a block of this kind must have; cross-attention may be there in some blocks only."""
    mlp = kind.mlp
    paths = [mlp.down, mlp.branch, mlp.act, mlp.gate, mlp.gate_up, mlp.router, kind.mixer, kind.middle]
    branch = kind.attn or (None if kind.middle else kind.cross)
    if branch is not None:
        paths += [branch.kernel, branch.branch, branch.o]
    paths += [norm.path for norm in (kind.ln1, kind.ln2) if norm is not None]
    if mlp.shared is not None:
        paths.append(mlp.shared.down)
    if kind.lookup is not None:
        paths += [kind.lookup.down, kind.lookup.branch]
    return [path for path in paths if path is not None]


@dataclass
class BlockBuilder:
    """Adds the points of one block.

    Attributes:
        collect: where they go.
        name: the block's name, e.g. `vision.blocks.3`.
        block: the real block.
        kind: its structure.
        heads: number of attention heads.
        rows: the stream it works on.
        is_last: whether it is the last of its stack.
        memory: the point that cross-attention reads keys and values from, and the sequence that it lives on.
    """

    collect: Collector
    name: str
    block: nn.Module
    kind: Block
    heads: int
    rows: Rows
    is_last: bool
    memory: tuple[str, str] | None = None

    def build(self, previous: list[str]) -> str:
        """All points of the block, which reads the previous ones; returns the name of its `hook_resid_post`."""
        if self.kind.begins:
            return self._post(self._mlp("mlp", self.kind.mlp, self.rows, previous), [])
        site = AtSite(self.collect.entering(self.block))
        pre = self._stream("hook_resid_pre", site, previous)
        reads = self._normed(pre, self.kind.ln1, "ln1", self.rows)
        self.collect.windows = self._windows
        first = self._first_branch(reads)
        self.collect.windows = None
        if self.kind.parallel:
            return self._post(self._mlp("mlp", self.kind.mlp, self.rows, reads), [pre, *first])
        if self.kind.laurel is not None:
            laurel = self.collect.branch(self.kind.laurel, self.block, None)
            first.append(self._add("hook_laurel_out", laurel, self.rows, reads, "writes"))
        if self.kind.mixed:
            norm_output = self._normed(pre, self.kind.ln2, "ln2", self.rows)
            return self._post(self._ends([*norm_output, *first], self.rows), [pre, *first])
        if self.kind.mlp == Mlp():
            return self._post(first, [pre])
        crosses = self.kind.cross is not None and find_module(self.block, self.kind.cross.branch) is not None
        split = pre
        if self.kind.attn is None and self.kind.mixer is None and self.kind.middle is not None:
            split = self._after("hook_resid_mid", pre, [], self.kind.middle, (None, None), self.rows)
        if first:
            name = "hook_resid_cross" if crosses else "hook_resid_mid"
            attn = self.kind.attn
            branch = (self.kind.mixer, None) if attn is None else (attn.branch, attn.scale)
            split = self._after(name, pre, first, self.kind.middle, branch, self.rows)
        rows = self._query_rows()
        mid = self._cross(split, reads if not first else [split], rows) if crosses else split
        ends = self._ends(self._normed(mid, self.kind.ln2, "ln2", rows), rows, [mid])
        return self._post(ends, self._text_mlp(split))

    def _ends(self, reads: list[str], rows: Rows, stream: Iterable[str] = ()) -> list[str]:
        """The stream, the MLP's branch, and the third branch behind it, if there is one."""
        ends = [*stream, *self._mlp("mlp", self.kind.mlp, rows, reads)]
        if self.kind.lookup is not None:
            ends += self._mlp("lookup", self.kind.lookup, rows, list(ends))
        return ends

    @property
    def _windows(self) -> nn.Module | None:
        """The block, if its first branch may see windows."""
        return self.block if self.kind.windows else None

    # -- streams -----------------------------------------------------------------------------------------------------

    def _add(self, kind: str, attachment: Attachment, rows: Rows, after: list[str], role: Role) -> str:
        return self.collect.add(f"{self.name}.{kind}", attachment, rows, after=after, role=role)

    def _stream(self, kind: str, attachment: Attachment, after: list[str]) -> str:
        """The stream where it enters or leaves the block."""
        shape: dict[str, Any] = {} if self.rows.map_axes is None else {"axes": self.rows.map_axes, "width": None}
        return self.collect.add(f"{self.name}.{kind}", attachment, self.rows, after=after, role="stream", **shape)

    def _normed(self, stream: str, norm: Norm | None, name: str, rows: Rows) -> list[str]:
        """What a branch is computed from: the stream, and the scale of the norm in front of it."""
        if norm is None:
            return [stream]
        flat = self.collect.entering(self.block) if norm is self.kind.ln2 and self.kind.mlp.flat else None
        scale = self.collect.norm_scale(f"{self.name}.{name}.hook_scale", norm, self.block, rows, stream, flat=flat)
        return [stream, scale]

    def _after(
        self,
        kind: str,
        before: str,
        outputs: list[str],
        middle: str | None,
        branch: tuple[str | None, Scale | None],
        rows: Rows,
    ) -> str:
        """The stream after a branch: a module's output where the block has one, else read and moved between branches."""
        attachment: Attachment
        if middle is not None:
            attachment = AtSite(self.collect.leaving(self.collect.module(middle, self.block)))
        else:
            path, scale = branch
            self.collect.windows = self._windows
            reach = self.collect.branch(path, self.block, scale).reach
            self.collect.windows = None
            attachment = BetweenBranches(self.collect.entering(self.block), reach)
        return self._add(kind, attachment, rows, [before, *outputs], "stream")

    def _query_rows(self) -> Rows:
        """In a Q-Former that reads text, cross-attention and the main MLP run on the queries alone."""
        if self.kind.text_mlp is None:
            return self.rows
        return Rows(self.rows.axes.replace("pos", "query"), self.rows.width, "queries")

    def _post(self, ends: list[str], others: list[str]) -> str:
        return self._stream("hook_resid_post", AtSite(self.collect.leaving(self.block)), [*ends, *others])

    # -- branches ----------------------------------------------------------------------------------------------------

    def _first_branch(self, reads: list[str]) -> list[str]:
        """Self-attention, or the mixer in its place; nothing in pure cross-attention blocks."""
        kind = self.kind
        if kind.attn is None:
            return [] if kind.mixer is None else [self._mixer(kind.mixer, reads)]
        keys, key_sequence = reads, self.rows.sequence
        if kind.attn.joined and self.memory is not None:
            keys, key_sequence = [*reads, self.memory[0]], f"{key_sequence}+{self.memory[1]}"
        z = add_attention(
            self.collect,
            f"{self.name}.attn",
            kind.attn,
            self.block,
            heads=self.heads,
            rows=self.rows,
            query_from=reads,
            key_from=keys,
            key_sequence=key_sequence,
        )
        branch = self.collect.branch(kind.attn.branch, self.block, kind.attn.scale)
        return [self._add("hook_attn_out", branch, self.rows, [z], "writes")]

    def _mixer(self, path: str, reads: list[str]) -> str:
        branch = self.collect.branch(path, self.block, None)
        return self._add("hook_mixer_out", branch, self.rows, reads, "writes")

    def _cross(self, stream: str, reads: list[str], rows: Rows) -> str:
        """Cross-attention, and the stream after it."""
        cross = self.kind.cross
        if cross is None or self.memory is None:
            raise UnsupportedModelError(
                f"{self.name} attends to another sequence, but its stack does not say to which."
            )
        memory, sequence = self.memory
        z = add_attention(
            self.collect,
            f"{self.name}.cross_attn",
            cross,
            self.block,
            heads=self.heads,
            rows=rows,
            query_from=reads,
            key_from=[memory, *(reads if cross.joined else [])],
            key_sequence=f"{sequence}+{rows.sequence}" if cross.joined else sequence,
        )
        branch = self.collect.branch(cross.branch, self.block, cross.scale)
        out = self._add("hook_cross_attn_out", branch, rows, [z], "writes")
        return self._after("hook_resid_mid", stream, [out], self.kind.cross_middle, (cross.branch, cross.scale), rows)

    def _mlp(self, prefix: str, mlp: Mlp, rows: Rows, reads: list[str]) -> list[str]:
        """An MLP's points and its branch; returns the branch's name."""
        stream = self.collect.entering(self.block)
        flat = stream if mlp.flat else None
        inner = self.collect.mlp(f"{self.name}.{prefix}", mlp, self.block, rows, reads, flat=flat)
        branch = self.collect.branch(mlp.branch, self.block, mlp.scale)
        if mlp.down is None or mlp.flat:  # mixtures may return the rows of all samples in one axis
            branch = AtSite(Unflattened(branch.reach, stream))
        return [self._add(f"hook_{prefix}_out", branch, rows, inner, "writes")]

    def _text_mlp(self, split: str) -> list[str]:
        """The text rows' MLP of a Q-Former; nothing reads its output in the last block."""
        if self.kind.text_mlp is None:
            return []
        rows = Rows(self.rows.axes, self.rows.width, "text")
        outer = self.collect.dead
        if self.is_last:
            self.collect.dead = "the text rows of the Q-Former's last block are read by nothing"
        out = self._mlp("mlp_text", self.kind.text_mlp, rows, [split])
        self.collect.dead = outer
        return [split, *out]
