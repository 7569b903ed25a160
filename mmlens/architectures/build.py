"""From a family's declaration and a real model to hook points and their graph, part by part."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from torch import nn

from mmlens.architectures.attention_points import add_attention
from mmlens.architectures.blocks import BlockBuilder, blocks_of, fitting, heads_of
from mmlens.architectures.modules import out_features
from mmlens.architectures.point_collector import Collector
from mmlens.architectures.tensor_parallel import SplitModules
from mmlens.core.errors import UnsupportedModelError
from mmlens.core.names import Part, part_prefix
from mmlens.declarations.family import Crossing, Encoder, Family, Read, Score, Vision
from mmlens.declarations.projector import Pooling
from mmlens.declarations.rows import Form, Rows, form_of
from mmlens.declarations.structure import Config, Norm, Stack
from mmlens.hooks.attachment import AtSite
from mmlens.hooks.graph import HookGraph
from mmlens.hooks.mixture import Unflattened
from mmlens.hooks.point import Point
from mmlens.hooks.site import MethodSite
from mmlens.hooks.views import OneRow


@dataclass
class Built:
    """What building gives: the points and the graph, in execution order."""

    points: dict[str, Point]
    graph: HookGraph


def build(model: nn.Module, family: Family, config: Config) -> Built:
    """All hook points of a model, and their graph.

    Args:
        model: the bare Hugging Face model.
        family: its declaration.
        config: its configuration.

    Raises:
        UnsupportedModelError: if the model lacks a module that the declaration names.
    """
    builder = _Builder(Collector(model, family.name, split=SplitModules.of(model)), family, config)
    handed_on, beside = builder.vision()
    projections = builder.projector(handed_on, beside)
    builder.language(projections, builder.deepstack())
    collect = builder.collect
    return Built(collect.points, HookGraph(collect.nodes, collect.edges))


@dataclass
class _Builder:
    """The three parts of one model.

    Attributes:
        collect: where points and edges go.
        family: the declaration.
        config: the model's configuration.
    """

    collect: Collector
    family: Family
    config: Config

    def _blocks(self, stack: Stack) -> list[nn.Module]:
        return blocks_of(self.collect.module(stack.path), stack)

    def _rows(self, stack: Stack) -> Rows:
        """The stream of a vision stack."""
        axes = "patch d_vision" if stack.packed else "batch patch d_vision"
        return Rows(
            axes, self._width(stack), stack.rows or "vision", "batch d_vision row column" if stack.maps else None
        )

    def _width(self, stack: Stack) -> int:
        """Width of the stream that a stack works on."""
        block = self._blocks(stack)[0]
        return out_features(self.collect.module(fitting(stack.kinds, block).width_path, block))

    def _stack(
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
        blocks = self._blocks(stack)
        posts: list[str] = []
        outer = self.collect.form
        self.collect.form = form_of(stack, self.config)
        for layer, block in enumerate(blocks):
            self.collect.dead = self._why_dead(stack, layer, len(blocks)) if part == "vision" else None
            stream = posts[-1] if posts else after
            if cross_stack is not None and layer % cross_stack.every(self.config) == 0:
                number = layer // cross_stack.every(self.config)
                other = self._blocks(cross_stack.stack)[number]
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
        """What adds the points of one block of a stack; arguments as for `_stack`."""
        name = f"{part_prefix(part)}{stack.name}.{layer}"
        kind = fitting(stack.kinds, block)
        heads = heads_of(stack, kind, block, self.config)
        return BlockBuilder(self.collect, name, block, kind, heads, rows, is_last, memory)

    def _vision_reads(self) -> list[tuple[str, int]]:
        """Every vision block that the projector reads, as stack and number."""
        return self._named(self.family.vision.read(self.config))

    def _named(self, reads: Sequence[Read]) -> list[tuple[str, int]]:
        stacks = {stack.name: stack for stack in self.family.vision.stacks}
        last = self.family.vision.stacks[-1].name
        pairs = [(last, read) if isinstance(read, int) else read for read in reads]
        return [(name, len(self._blocks(stacks[name])) + read if read < 0 else read) for name, read in pairs]

    def _why_dead(self, stack: Stack, layer: int, depth: int) -> str | None:
        """Why a vision block reaches nothing, or None: blocks after the last one that is read do not."""
        names = [declaration.name for declaration in self.family.vision.stacks]
        deep = self.family.projector.deepstack
        beside = self._named(self.family.vision.beside(self.config))
        deep_reads = [(names[-1], declaration) for declaration in (deep.read(self.config) if deep else ())]
        reads = [*self._vision_reads(), *beside, *deep_reads]
        furthest = max((names.index(name), number) for name, number in reads)
        if (names.index(stack.name), layer) <= furthest:
            return None
        return f"the projector reads vision.{names[furthest[0]]}.{furthest[1]}, an earlier block of {depth}"

    def vision(self) -> tuple[list[str], list[str]]:
        """The vision encoder; returns the points that are handed on, and those handed on beside them."""
        stacks = self.family.vision.stacks
        after = self._embed("vision.hook_embed", stacks[0], self._rows(stacks[0]), [])
        posts: dict[tuple[str, int], str] = {}
        for stack in stacks:
            names = self._stack("vision", stack, self._rows(stack), after=None if stack.apart else after)
            posts |= {(stack.name, layer): name for layer, name in enumerate(names)}
            after = names[-1]
        beside = self._named(self.family.vision.beside(self.config))
        handed_on = [posts[read] for read in self._vision_reads()]
        if self.family.vision.norm is not None:
            handed_on = [self._final_norm(self.family.vision, handed_on[-1])]
        return handed_on, [posts[read] for read in beside]

    def _final_norm(self, vision: Vision, last: str) -> str:
        """The tower's final norm, which may see the class row alone; returns the name of its output."""
        rows = self._rows(vision.stacks[-1])
        if vision.norm_pooled:
            rows = Rows("batch query d_vision", rows.width, "pooled")
            self.collect.form = Form(one_row=True)
        norm_output = self._normalized("vision.ln_final", cast(Norm, vision.norm), rows, last)
        self.collect.form = Form()
        return norm_output

    def projector(self, handed_on: list[str], beside: list[str]) -> str:
        """The projector; returns its last point."""
        collect, projector = self.collect, self.family.projector
        collect.form = Form(projector.nested, projector.lone_axis, one_row=projector.one_row)
        in_tower = "patch" if self.family.vision.stacks[0].packed else "batch patch"
        batch = in_tower if projector.packed is None else "patch" if projector.packed else "batch patch"
        path, argument = projector.receives
        module = collect.module(path)
        width = sum(node.width or 0 for node in collect.nodes if node.name in handed_on)
        width *= projector.side_by_side(self.config)
        if projector.received_width is not None:
            width = projector.received_width(self.config)
        input_site = collect.leaving(module) if argument is None else collect.entering(module, argument)
        input_rows = Rows(f"{in_tower if argument is None else batch} d_vision", width, projector.receives_rows)
        if self.family.vision.norm_pooled:
            input_rows = Rows("batch query d_vision", width, "pooled")
        shape: dict[str, Any] = (
            {"axes": "batch d_vision row column", "width": None} if self.family.vision.stacks[-1].maps else {}
        )
        last = collect.add("projector.hook_in", AtSite(input_site), input_rows, after=handed_on, **shape)
        sequence = "pooled" if projector.one_row else "queries" if projector.queries else "projector"
        windows = projector.pooling is not None and projector.pooling.windows
        axes = "batch query d_model" if projector.queries else f"{'patch' if windows else batch} d_model"
        wide = projector.width(self.config) if projector.width else self._width(self.family.language.stack)
        output_rows = Rows(axes, wide, sequence)
        inner = [last, *beside]
        if projector.mlp is not None and projector.mlp_first:
            rows = Rows(f"{batch} d_model", -1, projector.receives_rows)
            inner = collect.mlp("projector.mlp", projector.mlp, None, rows, inner)
        if projector.stack is not None:
            text = any(kind.text_mlp for kind in projector.stack.kinds)
            rows = Rows("batch pos d_model", self._width(projector.stack), "queries+text" if text else sequence)
            memory = (inner[0], projector.receives_rows)
            # after=None: the queries are learned, nothing flows into the first block's stream
            inner = [self._stack("projector", projector.stack, rows, after=None, memory=memory)[-1]]
        if projector.pooling is not None:
            inner = [self._pooling(projector.pooling, inner)]
        if projector.mixer is not None:
            site = AtSite(collect.leaving(collect.module(projector.mixer)))
            inner = [collect.add("projector.hook_mixer_out", site, output_rows, width=None, after=inner)]
        if projector.mlp is not None and not projector.mlp_first:
            rows = replace(output_rows, sequence=projector.mlp_rows or output_rows.sequence)
            outer = collect.form
            collect.form = replace(outer, rows_first=projector.mlp_rows_first)
            inner = collect.mlp("projector.mlp", projector.mlp, None, rows, inner)
            collect.form = outer
        reach = collect.returned(projector.returns)
        if projector.laid_out is not None:
            reach = Unflattened(reach, collect.leaving(collect.module(projector.laid_out)))
        collect.form = Form()
        return collect.add("projector.hook_out", AtSite(reach), output_rows, after=inner)

    def _pooling(self, pooling: Pooling, read: list[str]) -> str:
        """Attention in no block; returns the name of its output."""
        collect, attention = self.collect, pooling.attention
        batch_axis = "windows" if pooling.windows else "queries"
        looked_at = batch_axis if pooling.windows else self.family.projector.receives_rows
        width = out_features(collect.module(attention.o))
        rows = Rows("batch query d_model", width, batch_axis)
        z = add_attention(
            collect,
            "projector.cross_attn",
            attention,
            collect.model,
            heads=pooling.heads(self.config),
            rows=rows,
            # learned queries read nothing; those of a window are made of its patches
            query_from=read if pooling.windows else [],
            key_from=read,
            key_sequence=f"{looked_at}+{batch_axis}" if attention.joined else looked_at,
        )
        branch = collect.branch(attention.branch, collect.model, attention.scale)
        return collect.add("projector.hook_cross_attn_out", branch, rows, after=[z])

    def deepstack(self) -> dict[int, str]:
        """The further mergers; returns their outputs by the language block that they are added in front of."""
        collect, deep = self.collect, self.family.projector.deepstack
        if deep is None:
            return {}
        vision = self.family.vision.stacks[-1]
        axes = "patch d_model" if vision.packed else "batch patch d_model"
        rows = Rows(axes, self._width(self.family.language.stack), "projector")
        additions: dict[int, str] = {}
        mergers = list(cast(nn.ModuleList, collect.module(deep.path)))
        reads, into = deep.read(self.config), deep.into(self.config)
        depth = len(self._blocks(self.family.language.stack))
        if not all(0 < layer < depth for layer in into):
            raise UnsupportedModelError(
                f"{self.family.name} adds vision features in front of language blocks {list(into)}; of {depth} blocks it must be "
                f"some of 1..{depth - 1}."
            )
        for number, (merger, read, layer) in enumerate(zip(mergers, reads, into, strict=True)):
            prefix = f"projector.deepstack.{number}"
            beside = deep.side_by_side(self.config)
            sequence = "vision" if beside == 1 else "projector"
            input_rows = Rows(axes.replace("d_model", "d_vision"), self._width(vision) * beside, sequence)
            input_site = AtSite(collect.entering(merger, deep.argument))
            post = f"vision.{vision.name}.{read}.hook_resid_post"
            last = collect.add(f"{prefix}.hook_in", input_site, input_rows, after=[post])
            inner = collect.mlp(f"{prefix}.mlp", deep.mlp, merger, rows, [last])
            output_site = AtSite(collect.leaving(merger))
            additions[layer] = collect.add(f"{prefix}.hook_out", output_site, rows, after=inner)
        return additions

    def language(self, projections: str, additions: dict[int, str]) -> None:
        """The language model, from the merged embeddings to the logits.

        Args:
            projections: the projector's last point.
            additions: what DeepStack adds, by the block that it is added in front of.
        """
        collect, language = self.collect, self.family.language
        width = self._width(language.stack)
        read = [projections] if language.merges else []
        if language.encoder is None:
            rows = Rows("batch pos d_model", width, "language")
            first = language.stack if language.crossing is None else language.crossing.stack
            if language.enters is None:
                embed = self._embed("hook_embed", first, rows, read)
            else:
                path, argument = language.enters
                site = AtSite(collect.entering(collect.module(path), argument))
                embed = collect.add("hook_embed", site, rows, after=read, role="writes")
            memory = (projections, "projector")
        else:
            rows = Rows("batch pos d_model", width, "decoder")
            memory = (self._encoder(language.encoder, read), "language")
            embed = self._embed("hook_embed", language.stack, rows, [])
        posts = self._stack(
            "language",
            language.stack,
            rows,
            after=embed,
            memory=memory,
            additions=additions,
            cross_stack=language.crossing,
        )
        last = posts[-1]
        if language.norm is not None:
            last = self._normalized("ln_final", language.norm, rows, last)
        head = collect.module(language.head)
        if self.family.score is not None:
            self._score(self.family.score, head, [last], [projections])
            return
        output_site = AtSite(collect.leaving(head))
        vocab = out_features(head) + language.more_tokens(self.config)
        collect.add("hook_logits", output_site, rows, axes="batch pos vocab", width=vocab, after=[last])

    def _score(self, score: Score, head: nn.Module, text: list[str], picture: list[str]) -> None:
        """The end of a dual encoder: the text's embedding, and the scores of pictures and texts in the place of logits.

        Args:
            score: its declaration.
            head: the module that returns the text's embedding.
            text, picture: the points that both embeddings are made of.
        """
        collect = self.collect
        rows = Rows("batch query d_model", out_features(head), "pooled")
        collect.form = Form(one_row=True)
        embedding = collect.add("hook_projected", AtSite(collect.leaving(head)), rows, after=text)
        collect.form = Form()
        scores = OneRow(MethodSite(collect.model, "forward", score.field))
        collect.add(
            "hook_logits", AtSite(scores), rows, axes="batch query vocab", width=None, after=[embedding, *picture]
        )

    def _encoder(self, encoder: Encoder, read: list[str]) -> str:
        """The encoder of the language model; returns the point that the decoder looks at."""
        rows = Rows("batch pos d_model", self._width(encoder.stack), "language")
        embed = self._embed("encoder.hook_embed", encoder.stack, rows, read)
        last = self._stack("language", encoder.stack, rows, after=embed)[-1]
        return last if encoder.norm is None else self._normalized("encoder.ln_final", encoder.norm, rows, last)

    def _normalized(self, prefix: str, norm: Norm, rows: Rows, last: str) -> str:
        """A stream's final norm; returns the name of its output."""
        scale = self.collect.norm_scale(f"{prefix}.hook_scale", norm, None, rows, last)
        site = AtSite(self.collect.leaving(self.collect.module(norm.path)))
        return self.collect.add(f"{prefix}.hook_out", site, rows, after=[last, scale])

    def _embed(self, name: str, stack: Stack, rows: Rows, read: list[str]) -> str:
        """The embeddings, as the first block receives them.

        In decoding steps with a KV cache the language model gets tokens, so this point is not the model's own argument.
        """
        self.collect.form = form_of(stack, self.config)
        first = AtSite(self.collect.entering(self._blocks(stack)[0]), rank=-10)
        self.collect.form = Form()
        shape: dict[str, Any] = {} if rows.map_axes is None else {"axes": rows.map_axes, "width": None}
        if fitting(stack.kinds, self._blocks(stack)[0]).begins:
            shape = {"width": None}
        return self.collect.add(name, first, rows, after=read, role="writes", **shape)
