"""From a family's declaration and a real model to hook points and their graph."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from mmlens.core.errors import UnsupportedModelError
from mmlens.core.names import HookName, Part, part_prefix
from mmlens.hooks.attachment import Attachment, AtSite, BetweenBranches, NormScale
from mmlens.hooks.attention import ATTENTION_KINDS, InAttention, Tower
from mmlens.hooks.graph import HookGraph, Node, Role, node_kind
from mmlens.hooks.point import Point
from mmlens.hooks.site import Site
from mmlens.models.attention_interface import attention_tower
from mmlens.models.family import Attention, Config, Family, Mlp, Norm, Stack


def submodule(root: nn.Module, path: str, family: str) -> nn.Module:
    """The module at a path.

    Raises:
        UnsupportedModelError: if the declaration names a module that this model does not have.
    """
    module: Any = root
    for step in path.split("."):
        found = module[int(step)] if step.isdigit() else getattr(module, step, None)
        if found is None:
            children = ", ".join(name for name, _ in module.named_children())
            raise UnsupportedModelError(
                f"The family {family!r} expects a module {path!r} in {type(root).__name__}, but {type(module).__name__} has no "
                f"{step!r}; it has {children}. The checkpoint's parts are not of the kinds that this family covers."
            )
        module = found
    return module


@dataclass
class Built:
    """What building gives: the points and the graph, in execution order."""

    points: dict[str, Point]
    graph: HookGraph


@dataclass
class Builder:
    """Collects points and edges part by part.

    Attributes:
        model: the bare Hugging Face model.
        family: its declaration.
    """

    model: nn.Module
    family: Family
    points: dict[str, Point] = field(default_factory=dict)
    nodes: list[Node] = field(default_factory=list)
    edges: list[tuple[str, str]] = field(default_factory=list)
    _sites: dict[tuple[int, str, str], Site] = field(default_factory=dict)
    _towers: dict[int, Tower] = field(default_factory=dict)
    _dead: str | None = None

    # -- single pieces -----------------------------------------------------------------------------------------------

    def module(self, path: str, root: nn.Module | None = None) -> nn.Module:
        """A module of the model, or of a block."""
        return submodule(self.model if root is None else root, path, self.family.name)

    def entering(self, module: nn.Module, argument: str = "hidden_states") -> Site:
        """The tensor that a module receives."""
        return self._sites.setdefault((id(module), "in", argument), Site(module, "in", argument))

    def leaving(self, module: nn.Module) -> Site:
        """The tensor that a module returns."""
        return self._sites.setdefault((id(module), "out", ""), Site(module, "out"))

    def add(
        self,
        name: str,
        attachment: Attachment,
        axes: str,
        width: int | None,
        sequence: str,
        *,
        after: Iterable[str] = (),
        role: Role | None = None,
        on_request: bool = False,
    ) -> str:
        """Add one point and the edges into it; returns its name."""
        parsed = HookName.parse(name)
        self.points[name] = Point(name, attachment)
        self.nodes.append(
            Node(name, parsed.part, parsed.layer, node_kind(name), axes, width, sequence, role, self._dead, on_request)
        )
        self.edges += [(source, name) for source in after]
        return name

    # -- the pieces of a block ---------------------------------------------------------------------------------------

    def norm_scale(self, name: str, norm: Norm, root: nn.Module | None, axes: str, sequence: str, after: str) -> str:
        """The divisor of a norm."""
        module = self.module(norm.path, root)
        eps = next((getattr(module, key) for key in ("variance_epsilon", "eps") if hasattr(module, key)), 0.0)
        attachment = NormScale(
            module, centred=norm.centred, eps=eps, received=self.entering(module), returned=self.leaving(module)
        )
        return self.add(name, attachment, axes.rsplit(" ", 1)[0] + " one", 1, sequence, after=[after])

    def attention(
        self,
        prefix: str,
        attention: Attention,
        block: nn.Module,
        *,
        heads: int,
        packed: bool,
        query_from: list[str],
        key_from: list[str],
        sequence: str,
        key_sequence: str,
    ) -> str:
        """The six points of an attention computation; returns the name of the last, `hook_z`."""
        kernel = self.module(attention.kernel, block)
        d_head = _in_features(self.module(attention.o, block)) // heads
        config = kernel.config
        tower = self._towers.setdefault(id(config), attention_tower(config, packed=packed))
        batch = "" if packed else "batch "
        axes = {
            "q": f"{batch}query head d_head",
            "k": f"{batch}key head d_head",
            "v": f"{batch}key head d_head",
            "attn_scores": f"{batch}head query key",
            "pattern": f"{batch}head query key",
            "z": f"{batch}query head d_head",
        }
        names = {kind: f"{prefix}.hook_{kind}" for kind in ATTENTION_KINDS}
        after = {
            "q": query_from,
            "k": key_from,
            "v": key_from,
            "attn_scores": [names["q"], names["k"]],
            "pattern": [names["attn_scores"]],
            "z": [names["pattern"], names["v"]],
        }
        for kind in ATTENTION_KINDS:
            pairs = kind in ("attn_scores", "pattern")
            self.add(
                names[kind],
                InAttention(kernel, kind, tower),
                axes[kind],
                None if pairs else d_head,
                key_sequence if kind in "kv" else sequence,
                after=after[kind],
                on_request=pairs,
            )
        return names["z"]

    def mlp(self, prefix: str, mlp: Mlp, root: nn.Module | None, axes: str, sequence: str, after: list[str]) -> str:
        """The hidden points of an MLP; returns the name of `hook_post`."""
        down = self.module(mlp.down, root)
        width = _in_features(down)
        axes = axes.rsplit(" ", 1)[0] + " neuron"
        hidden = list(after)
        if mlp.act is not None:
            act = self.module(mlp.act, root)
            pre = self.add(f"{prefix}.hook_pre", AtSite(self.entering(act)), axes, width, sequence, after=after)
            active = self.add(f"{prefix}.hook_act", AtSite(self.leaving(act)), axes, width, sequence, after=[pre])
            hidden = [active, *after] if mlp.gate else [active]
        return self.add(f"{prefix}.hook_post", AtSite(self.entering(down)), axes, width, sequence, after=hidden)

    # -- stacks ------------------------------------------------------------------------------------------------------

    def stack(
        self, part: Part, stack: Stack, config: Config, *, after: str | None, axes: str, sequence: str
    ) -> list[str]:
        """The blocks of a part; returns the names of their `hook_resid_post`."""
        blocks = list(self.module(stack.path))  # type: ignore[call-overload]
        heads = stack.heads(stack.config(config))
        posts: list[str] = []
        for layer, block in enumerate(blocks):
            self._dead = self._why_dead(part, layer, len(blocks), config)
            previous = posts[-1] if posts else after
            add = self._post_norm_block if stack.block.middle else self._pre_norm_block
            posts.append(add(f"{part_prefix(part)}blocks.{layer}", block, stack, heads, previous, axes, sequence))
        self._dead = None
        return posts

    def _why_dead(self, part: Part, layer: int, depth: int, config: Config) -> str | None:
        if part != "vision":
            return None
        read = max(self.family.vision.read(config))
        return None if layer <= read else f"the projector reads vision.blocks.{read}, an earlier block of {depth}"

    def _pre_norm_block(
        self, name: str, block: nn.Module, stack: Stack, heads: int, previous: str | None, axes: str, sequence: str
    ) -> str:
        shape = stack.block
        width = _out_features(self.module(shape.mlp.down, block))
        into = [] if previous is None else [previous]
        pre = self.add(
            f"{name}.hook_resid_pre", AtSite(self.entering(block)), axes, width, sequence, after=into, role="stream"
        )
        reads = [pre]
        if shape.ln1:
            reads.append(self.norm_scale(f"{name}.ln1.hook_scale", shape.ln1, block, axes, sequence, pre))
        z = self.attention(
            f"{name}.attn",
            shape.attn,
            block,
            heads=heads,
            packed=stack.packed,
            query_from=reads,
            key_from=reads,
            sequence=sequence,
            key_sequence=sequence,
        )
        branch = self.leaving(self.module(_required(shape.attn.branch), block))
        attn_out = self.add(f"{name}.hook_attn_out", AtSite(branch), axes, width, sequence, after=[z], role="writes")
        mid = self.add(
            f"{name}.hook_resid_mid",
            BetweenBranches(self.entering(block), branch),
            axes,
            width,
            sequence,
            after=[pre, attn_out],
            role="stream",
        )
        reads = [mid]
        if shape.ln2:
            reads.append(self.norm_scale(f"{name}.ln2.hook_scale", shape.ln2, block, axes, sequence, mid))
        post = self.mlp(f"{name}.mlp", shape.mlp, block, axes, sequence, reads)
        mlp_site = AtSite(self.leaving(self.module(_required(shape.mlp.branch), block)))
        mlp_out = self.add(f"{name}.hook_mlp_out", mlp_site, axes, width, sequence, after=[post], role="writes")
        return self.add(
            f"{name}.hook_resid_post",
            AtSite(self.leaving(block)),
            axes,
            width,
            sequence,
            after=[mid, mlp_out],
            role="stream",
        )

    def _post_norm_block(
        self, name: str, block: nn.Module, stack: Stack, heads: int, previous: str | None, axes: str, sequence: str
    ) -> str:
        """Each branch is followed by a norm over `stream + branch`, so the middle of the stream is a module's output.

        In a Q-Former the rows are queries, then text; both attend together, the queries alone look at the picture,
        and each has an MLP of its own. The last block's text rows are read by nothing.
        """
        shape = stack.block
        width = _out_features(self.module(shape.mlp.down, block))
        rows, queries = "queries+text", "queries"
        into = [] if previous is None else [previous]
        stream = self.add(
            f"{name}.hook_resid_pre", AtSite(self.entering(block)), axes, width, rows, after=into, role="stream"
        )
        z = self.attention(
            f"{name}.attn",
            shape.attn,
            block,
            heads=heads,
            packed=stack.packed,
            query_from=[stream],
            key_from=[stream],
            sequence=rows,
            key_sequence=rows,
        )
        out = AtSite(self.leaving(self.module(shape.attn.branch, block)))
        attn_out = self.add(f"{name}.hook_attn_out", out, axes, width, rows, after=[z], role="writes")
        crosses = shape.cross is not None and hasattr(block, shape.cross.kernel.split(".")[0])
        middle = AtSite(self.leaving(self.module(_required(shape.middle), block)))
        middle_name = f"{name}.hook_resid_cross" if crosses else f"{name}.hook_resid_mid"
        both = self.add(middle_name, middle, axes, width, rows, after=[stream, attn_out], role="stream")
        mid = both
        query_axes = axes.replace("pos", "query")
        if crosses and shape.cross is not None:
            z = self.attention(
                f"{name}.cross_attn",
                shape.cross,
                block,
                heads=heads,
                packed=stack.packed,
                query_from=[both],
                key_from=["projector.hook_in"],
                sequence=queries,
                key_sequence="vision",
            )
            out = AtSite(self.leaving(self.module(shape.cross.branch, block)))
            cross_out = self.add(
                f"{name}.hook_cross_attn_out", out, query_axes, width, queries, after=[z], role="writes"
            )
            middle = AtSite(self.leaving(self.module(_required(shape.cross_middle), block)))
            mid = self.add(
                f"{name}.hook_resid_mid", middle, query_axes, width, queries, after=[both, cross_out], role="stream"
            )
        post = self.mlp(f"{name}.mlp", shape.mlp, block, query_axes, queries, [mid])
        out = AtSite(self.leaving(self.module(_required(shape.mlp.branch), block)))
        ends = [mid, self.add(f"{name}.hook_mlp_out", out, query_axes, width, queries, after=[post], role="writes")]
        if shape.text_mlp is not None:
            is_last = block is list(self.module(stack.path))[-1]  # type: ignore[call-overload]
            self._dead = "the text rows of the Q-Former's last block are read by nothing" if is_last else None
            post = self.mlp(f"{name}.mlp_text", shape.text_mlp, block, axes, "text", [both])
            out = AtSite(self.leaving(self.module(_required(shape.text_mlp.branch), block)))
            text_out = self.add(f"{name}.hook_mlp_text_out", out, axes, width, "text", after=[post], role="writes")
            ends += [both, text_out]
            self._dead = None
        return self.add(
            f"{name}.hook_resid_post", AtSite(self.leaving(block)), axes, width, rows, after=ends, role="stream"
        )

    # -- parts -------------------------------------------------------------------------------------------------------

    def build(self, config: Config) -> Built:
        """All points and edges, in execution order."""
        handed_on = self._vision(config)
        merged = self._projector(config, handed_on)
        self._language(config, merged)
        return Built(self.points, HookGraph(self.nodes, self.edges))

    def _vision(self, config: Config) -> list[str]:
        vision = self.family.vision
        axes = "patch d_vision" if vision.stack.packed else "batch patch d_vision"
        first = next(iter(self.module(vision.stack.path)))  # type: ignore[call-overload]
        width = _out_features(self.module(vision.stack.block.mlp.down, first))
        embed = self.add(
            "vision.hook_embed", AtSite(self.entering(first), rank=-10), axes, width, "vision", role="writes"
        )
        posts = self.stack("vision", vision.stack, config, after=embed, axes=axes, sequence="vision")
        return [posts[layer] for layer in vision.read(config)]

    def _projector(self, config: Config, handed_on: list[str]) -> str:
        projector = self.family.projector
        packed = self.family.vision.stack.packed
        rows = "patch" if packed else "batch patch"
        module, argument = projector.receives
        width = sum(node.width or 0 for node in self.nodes if node.name in handed_on)
        last = self.add(
            "projector.hook_in",
            AtSite(self.entering(self.module(module), argument)),
            f"{rows} d_vision",
            width,
            projector.receives_rows,
            after=handed_on,
        )
        sequence = "queries" if projector.queries else "projector"
        if projector.stack is not None:
            # after=None: the queries are learned, nothing flows into the first block's stream
            posts = self.stack(
                "projector", projector.stack, config, after=None, axes="batch pos d_model", sequence=sequence
            )
            last = posts[-1]
        elif projector.mlp is not None:
            last = self.mlp("projector.mlp", projector.mlp, None, f"{rows} d_model", sequence, [last])
        returns = self.module(projector.returns)
        out_rows = "batch query" if projector.queries else rows
        return self.add(
            "projector.hook_out",
            AtSite(self.leaving(returns)),
            f"{out_rows} d_model",
            self._language_width(),
            sequence,
            after=[last],
        )

    def _language_width(self) -> int:
        stack = self.family.language.stack
        return _out_features(self.module(stack.block.mlp.down, next(iter(self.module(stack.path)))))  # type: ignore[call-overload]

    def _language(self, config: Config, merged: str) -> None:
        language = self.family.language
        blocks = list(self.module(language.stack.path))  # type: ignore[call-overload]
        axes = "batch pos d_model"
        width = self._language_width()
        # the first block's input: in decoding steps with a KV cache the language model gets tokens, not embeddings
        embed = self.add(
            "hook_embed",
            AtSite(self.entering(blocks[0]), rank=-10),
            axes,
            width,
            "language",
            after=[merged],
            role="writes",
        )
        last = self.stack("language", language.stack, config, after=embed, axes=axes, sequence="language")[-1]
        scale = self.norm_scale("ln_final.hook_scale", language.norm, None, axes, "language", last)
        normalized = self.add(
            "ln_final.hook_normalized",
            AtSite(self.leaving(self.module(language.norm.path))),
            axes,
            width,
            "language",
            after=[last, scale],
        )
        head = self.module(language.head)
        self.add(
            "hook_logits",
            AtSite(self.leaving(head)),
            "batch pos vocab",
            _out_features(head),
            "language",
            after=[normalized],
        )


def _required(path: str | None) -> str:
    if path is None:
        raise UnsupportedModelError(
            "A block's declaration lacks the module that returns its branch (Attention.branch, Mlp.branch)."
        )
    return path


def _in_features(linear: nn.Module) -> int:
    return int(linear.in_features)  # type: ignore[arg-type]


def _out_features(linear: nn.Module) -> int:
    return int(linear.out_features)  # type: ignore[arg-type]
