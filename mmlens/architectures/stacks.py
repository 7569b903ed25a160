"""Stacks of blocks as hook points: what the vision encoder, the projector and the language model are all made of."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from mmlens.architectures.blocks import BlockBuilder, blocks_of, fitting, heads_of
from mmlens.architectures.modules import out_features
from mmlens.architectures.point_collector import Collector
from mmlens.core.names import Part, part_prefix
from mmlens.declarations.family import Crossing, Family, Read
from mmlens.declarations.rows import Form, Rows, form_of
from mmlens.declarations.structure import Config, Norm, Stack
from mmlens.hooks.attachment import AtSite


@dataclass
class StackBuilder:
    """Adds the points of stacks.

    Attributes:
        collect: where points and edges go.
        family: the declaration.
        config: the model's configuration.
    """

    collect: Collector
    family: Family
    config: Config

    def blocks(self, stack: Stack) -> list[nn.Module]:
        """The modules of a stack's blocks."""
        return blocks_of(self.collect.module(stack.path), stack)

    def rows(self, stack: Stack) -> Rows:
        """The stream of a vision stack."""
        axes = "patch d_vision" if stack.packed else "batch patch d_vision"
        return Rows(
            axes, self.width(stack), stack.rows or "vision", "batch d_vision row column" if stack.maps else None
        )

    def width(self, stack: Stack) -> int:
        """Width of the stream that a stack works on."""
        block = self.blocks(stack)[0]
        return out_features(self.collect.module(fitting(stack.kinds, block).width_path, block))

    def add(
        self,
        part: Part,
        stack: Stack,
        rows: Rows,
        *,
        after: str | None,
        memory: tuple[str, str] | None = None,
        additions: dict[int, str] | None = None,
        cross_stack: Crossing | None = None,
    ) -> list[str]:
        """The blocks of a stack; returns the names of their `hook_resid_post`.

        Args:
            part: where the stack is.
            stack: its declaration.
            rows: the stream it works on.
            after: the point that its first block reads.
            memory: what its cross-attention reads, and the sequence that it lives on.
            additions: further points that are added to a block's input, by block.
            cross_stack: blocks of another list that stand in front of some of them.
        """
        blocks = self.blocks(stack)
        posts: list[str] = []
        outer = self.collect.form
        self.collect.form = form_of(stack, self.config)
        for layer, block in enumerate(blocks):
            self.collect.dead = self._why_dead(stack, layer, len(blocks)) if part == "vision" else None
            stream = posts[-1] if posts else after
            if cross_stack is not None and layer % cross_stack.every(self.config) == 0:
                number = layer // cross_stack.every(self.config)
                other = self.blocks(cross_stack.stack)[number]
                stream = self._block(part, cross_stack.stack, number, other, rows, memory).build(
                    [stream] if stream else []
                )
            before = [stream, (additions or {}).get(layer)]
            builder = self._block(part, stack, layer, block, rows, memory, is_last=layer == len(blocks) - 1)
            posts.append(builder.build([name for name in before if name is not None]))
        self.collect.dead = None
        self.collect.form = outer
        return posts

    def _block(
        self,
        part: Part,
        stack: Stack,
        layer: int,
        block: nn.Module,
        rows: Rows,
        memory: tuple[str, str] | None,
        *,
        is_last: bool = False,
    ) -> BlockBuilder:
        """What adds the points of one block of a stack; arguments as for `add`."""
        name = f"{part_prefix(part)}{stack.name}.{layer}"
        kind = fitting(stack.kinds, block)
        heads = heads_of(stack, kind, block, self.config)
        return BlockBuilder(self.collect, name, block, kind, heads, rows, is_last, memory)

    def reads(self) -> list[tuple[str, int]]:
        """Every vision block that the projector reads, as stack and number."""
        return self.numbered(self.family.vision.read(self.config))

    def numbered(self, reads: Sequence[Read]) -> list[tuple[str, int]]:
        """Vision blocks that are read, as stack and number; the last stack's by default, counted from the first block."""
        stacks = {stack.name: stack for stack in self.family.vision.stacks}
        last = self.family.vision.stacks[-1].name
        pairs = [(last, read) if isinstance(read, int) else read for read in reads]
        return [(name, len(self.blocks(stacks[name])) + read if read < 0 else read) for name, read in pairs]

    def _why_dead(self, stack: Stack, layer: int, depth: int) -> str | None:
        """Why a vision block reaches nothing, or None: blocks after the last one that is read do not."""
        names = [declaration.name for declaration in self.family.vision.stacks]
        deep = self.family.projector.deepstack
        beside = self.numbered(self.family.vision.beside(self.config))
        deep_reads = [(names[-1], declaration) for declaration in (deep.read(self.config) if deep else ())]
        reads = [*self.reads(), *beside, *deep_reads]
        furthest = max((names.index(name), number) for name, number in reads)
        if (names.index(stack.name), layer) <= furthest:
            return None
        return f"the projector reads vision.{names[furthest[0]]}.{furthest[1]}, an earlier block of {depth}"

    def add_norm(self, prefix: str, norm: Norm, rows: Rows, last: str) -> str:
        """A stream's final norm; returns the name of its output."""
        scale = self.collect.norm_scale(f"{prefix}.hook_scale", norm, None, rows, last)
        site = AtSite(self.collect.leaving(self.collect.module(norm.path)))
        return self.collect.add(f"{prefix}.hook_out", site, rows, after=[last, scale])

    def add_embedding(self, name: str, stack: Stack, rows: Rows, read: list[str]) -> str:
        """The embeddings, as the first block receives them.

        In decoding steps with a KV cache the language model gets tokens, so this point is not the model's own argument.
        """
        self.collect.form = form_of(stack, self.config)
        first = AtSite(self.collect.entering(self.blocks(stack)[0]), rank=-10)
        self.collect.form = Form()
        shape: dict[str, Any] = {} if rows.map_axes is None else {"axes": rows.map_axes, "width": None}
        if fitting(stack.kinds, self.blocks(stack)[0]).begins:
            shape = {"width": None}
        return self.collect.add(name, first, rows, after=read, role="writes", **shape)
