"""Points that a bound model has besides the model's: TransformerLens's copies and sums of heads, once they are switched on."""

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias, get_args

from torch import nn

from mmlens.architectures.projections import LETTERS, projection_of
from mmlens.core.contract import checked
from mmlens.core.errors import InputError, UnknownNameError
from mmlens.core.names import Names, match_names
from mmlens.hooks.attachment import AtSite, Attachment, TensorAccess
from mmlens.hooks.attention import kernel_of
from mmlens.hooks.head_streams import HeadInputs, HeadResults
from mmlens.hooks.heads import HeadProjection
from mmlens.hooks.indirect import BeforeGain, NormScale
from mmlens.hooks.nodes import Node, Selection
from mmlens.hooks.point import Point
from mmlens.hooks.session import HookFunction
from mmlens.hooks.site import Site
from mmlens.hooks.views import TensorView
from mmlens.models.bound.base import Bound
from mmlens.models.claims import claimed

Flag: TypeAlias = Literal["use_attn_result", "use_split_qkv_input", "use_attn_in", "use_hook_mlp_in"]
FLAGS: tuple[Flag, ...] = get_args(Flag)
#: The flag that a point needs, by the end of its name.
_NEEDED: dict[str, Flag] = {
    "attn.hook_result": "use_attn_result",
    "hook_q_input": "use_split_qkv_input",
    "hook_k_input": "use_split_qkv_input",
    "hook_v_input": "use_split_qkv_input",
    "hook_attn_in": "use_attn_in",
    "hook_mlp_in": "use_hook_mlp_in",
}
#: Flags that both say what heads read.
_EXCLUSIVE: dict[Flag, Flag] = {"use_split_qkv_input": "use_attn_in", "use_attn_in": "use_split_qkv_input"}


class BoundPoints(Bound):
    """The hook points of a bound model: the model's, and those that a flag switches on."""

    @property
    def flags(self) -> frozenset[Flag]:
        """The flags that are on."""
        return frozenset(self._switched())

    @property
    def hook_dict(self) -> dict[str, Point]:
        """The points by name."""
        self._follow()
        pairs = [*self._normalized(), *(pair for points in self._switched().values() for pair in points)]
        return self.model.hook_dict | {name: point for node, point in pairs for name in _names(node)}

    @property
    def mod_dict(self) -> dict[str, nn.Module]:
        """The points by name, as TransformerLens calls them."""
        return {**self.hook_dict}

    def get_hook_point(self, hook_name: str) -> Point | None:
        """The point of a name; None if there is none."""
        return self.hook_dict.get(hook_name)

    def hook_points(self) -> Sequence[Point]:
        """The points."""
        return list(dict.fromkeys(self.hook_dict.values()))

    @checked
    def set_use_attn_result(self, use_attn_result: bool) -> None:
        """Have `blocks.*.attn.hook_result`, what each head writes, `[batch pos head d_model]`."""
        self._switch("use_attn_result", use_attn_result)

    @checked
    def set_use_split_qkv_input(self, use_split_qkv_input: bool) -> None:
        """Have `blocks.*.hook_q_input`, `hook_k_input` and `hook_v_input`, the stream that each head reads."""
        self._switch("use_split_qkv_input", use_split_qkv_input)

    @checked
    def set_use_attn_in(self, use_attn_in: bool) -> None:
        """Have `blocks.*.hook_attn_in`, the stream that each head reads for queries, keys and values together."""
        self._switch("use_attn_in", use_attn_in)

    @checked
    def set_use_hook_mlp_in(self, use_hook_mlp_in: bool) -> None:
        """Have `blocks.*.hook_mlp_in`, the stream that the MLP reads, in front of the norm."""
        self._switch("use_hook_mlp_in", use_hook_mlp_in)

    @checked
    def add_hook(
        self, name: Names, hook: HookFunction, dir: Literal["fwd", "bwd"] = "fwd", is_permanent: bool = False
    ) -> None:
        """Add a hook that stays until `reset_hooks()`.

        Args:
            name: a point, a glob, several, or a predicate.
            hook: `fn(activation, hook)`; a new activation, or None.
            dir: with the activation, or with the gradient.
            is_permanent: whether it survives `reset_hooks()`.
        """
        with claimed(self.model, "A hook that stays"):
            for point in self._resolved(name):
                point.add_hook(hook, dir=dir, is_permanent=is_permanent)

    def add_perma_hook(self, name: Names, hook: HookFunction, dir: Literal["fwd", "bwd"] = "fwd") -> None:
        """Add a hook that survives `reset_hooks()`."""
        self.add_hook(name, hook, dir, is_permanent=True)

    def reset_hooks(
        self,
        clear_contexts: bool = True,
        direction: Literal["fwd", "bwd", "both"] = "both",
        including_permanent: bool = False,
        level: int | None = None,
    ) -> None:
        """Remove hooks that were added to stay."""
        if clear_contexts:
            self.clear_contexts()
        self.remove_all_hook_fns(direction, including_permanent, level)

    def remove_all_hook_fns(
        self,
        direction: Literal["fwd", "bwd", "both"] = "both",
        including_permanent: bool = False,
        level: int | None = None,
    ) -> None:
        """Remove hooks of all points."""
        for point in self.hook_points():
            point.remove_hooks(direction, including_permanent=including_permanent, level=level)

    def clear_contexts(self) -> None:
        """Forget what hooks noted at their points."""
        for point in self.hook_points():
            point.clear_context()

    def _follow(self) -> None:
        """Have added points reach the modules that act now, if adapters came or went since they were made."""
        adapters = (self.model.adapters, self.model.active_adapters)
        if vars(self).get("_adapters", adapters) != adapters:
            self.model.follow()
            for flag, pairs in self._switched().items():
                again = [pair for layer in range(self.model.cfg.n_layers) for pair in self._points(flag, layer)]
                for (_, point), (_, other) in zip(pairs, again, strict=True):
                    point.rebind(other)
            before = vars(self).pop("_norms", [])
            for (_, point), (_, other) in zip(before, self._normalized(), strict=False):
                point.rebind(other)
            self._norms = before
        self._adapters = adapters

    # -- what is switched on -----------------------------------------------------------------------------------------

    def _switched(self) -> dict[Flag, list[tuple[Node, Point]]]:
        return vars(self).setdefault("_added", {})

    def _normalized(self) -> list[tuple[Node, Point]]:
        """What norms return before their gain, of all norms whose scale has a point in the language model."""
        if "_norms" not in vars(self):
            self._norms = []
            for node in (
                self.model.graph.select("**.hook_scale") if "ln_final.hook_scale" in self.model.hook_dict else ()
            ):
                attachment = self.model.hook_dict[node.name].attachment
                if node.part == "language" and isinstance(attachment, NormScale):
                    width = self.model.cfg.d_model
                    name = node.name.replace("hook_scale", "hook_normalized")
                    kind, axes = node.kind.replace("scale", "normalized"), node.axes.replace("one", "d_model")
                    norm_node = Node(name, node.part, node.layer, kind, axes, width, node.sequence)
                    self._norms.append((norm_node, Point(name, BeforeGain(attachment))))
        return self._norms

    def _switch(self, flag: Flag, on: bool) -> None:
        pairs = self._switched()
        if not on:
            for _, point in pairs.pop(flag, []):
                point.remove_hooks("both", including_permanent=True)
            return
        other = _EXCLUSIVE.get(flag)
        if other in pairs:
            raise InputError(f"{flag} and {other} both say what heads read; call set_{other}(False) first.")
        if flag in pairs:
            return
        points = [pair for layer in range(self.model.cfg.n_layers) for pair in self._points(flag, layer)]
        if not points:
            raise InputError(
                f"{flag} means nothing in {self.model.family.name}: no block of its language model has "
                + (
                    "an MLP behind a norm of its own."
                    if flag == "use_hook_mlp_in"
                    else "heads that linears of their own make, behind a norm."
                )
            )
        pairs[flag] = points

    def _points(self, flag: Flag, layer: int) -> list[tuple[Node, Point]]:
        """The points that a flag gives a block; none where it has no such thing."""
        if flag == "use_hook_mlp_in":
            norm = self._norm(layer, "ln2")
            return [] if norm is None else [self._made(layer, "hook_mlp_in", AtSite(norm.source), "pos d_model")]
        weights = self.model.part("language").blocks[layer].attn
        attention = f"blocks.{layer}.attn"
        if weights is None or kernel_of(self.model.hook_dict, attention) is None:
            return []
        if flag == "use_attn_result":
            output = self._returned_by(weights.output, f"blocks.{layer}.hook_attn_out")
            results = HeadResults(weights.output, output, weights.heads, lambda: weights.W_O)
            return [self._made(layer, "attn.hook_result", results, "pos head d_model")]
        norm = self._norm(layer, "ln1")
        projections = {
            letter: projection_of(weights.module, weights.declared, letter, heads=weights.heads, d_head=weights.d_head)
            for letter in LETTERS
        }
        parts: dict[str, HeadProjection] = {letter: part for letter, part in projections.items() if part is not None}
        if norm is None or len(parts) < len(LETTERS):
            return []
        sites = {
            letter: self._returned_by(part.linear, f"{attention}.hook_q", f"{attention}.hook_k", f"{attention}.hook_v")
            for letter, part in parts.items()
        }
        if flag == "use_attn_in":
            inputs = HeadInputs(norm.module, {part: sites[letter] for letter, part in parts.items()})
            return [self._made(layer, "hook_attn_in", inputs, "pos head d_model")]
        return [
            self._made(
                layer, f"hook_{letter}_input", HeadInputs(norm.module, {part: sites[letter]}), "pos head d_model"
            )
            for letter, part in parts.items()
        ]

    def _returned_by(self, module: nn.Module, *points: str) -> TensorAccess:
        """What a module returns: where points are on it, the site that they share, which keeps their order."""
        for name in points:
            point = self.model.hook_dict.get(name)
            reach: Any = point.attachment.reach if point is not None and isinstance(point.attachment, AtSite) else None
            while isinstance(reach, TensorView):
                reach = reach.site
            if isinstance(reach, Site) and reach.module is module:
                return reach
        return Site(module, "out")

    def _norm(self, layer: int, name: str) -> NormScale | None:
        point = self.model.hook_dict.get(f"blocks.{layer}.{name}.hook_scale")
        attachment = None if point is None else point.attachment
        return attachment if isinstance(attachment, NormScale) else None

    def _made(self, layer: int, kind: str, attachment: Attachment, axes: str) -> tuple[Node, Point]:
        name = f"blocks.{layer}.{kind}"
        sequence = self.model.graph[f"blocks.{layer}.hook_resid_pre"].sequence
        node = Node(
            name, "language", layer, kind.replace("hook_", ""), f"batch {axes}", self.model.cfg.d_model, sequence
        )
        return node, Point(name, attachment)

    # -- which points are meant --------------------------------------------------------------------------------------

    def _nodes(self, names: Names | Selection | None) -> list[Node]:
        """The points that are meant, each once: all that fire by default, scores and patterns among them."""
        self._follow()
        nodes = {node.name: node for points in (self._normalized(), *self._switched().values()) for node, _ in points}
        if names is None:
            return [*self.model.graph, *nodes.values()]
        if isinstance(names, Selection):
            return list(names)
        graph = {node.name: node for node in self.model.graph} | nodes
        return [graph[str(point.name)] for point in self._resolved(names)]

    def _resolved(self, names: Names) -> list[Point]:
        """The points that are meant, each once.

        Raises:
            UnknownNameError: if there are none; says which flag switches them on.
        """
        points = self.hook_dict
        patterns = [names] if isinstance(names, str) else [] if callable(names) else list(names)
        for pattern in patterns:
            flag = next((flag for end, flag in _NEEDED.items() if str(pattern).endswith(end)), None)
            if flag is not None and flag not in self.flags:
                raise UnknownNameError(f"{pattern} is there once it is switched on: call set_{flag}(True) first.")
        return list(dict.fromkeys(points[name] for name in match_names(names, list(points))))


def _names(node: Node) -> list[str]:
    """The names that a point goes by: inputs of heads also by that of the attention, as in TransformerLens's bridge."""
    inner = node.name.replace(".hook_", ".attn.hook_")
    return [node.name, inner] if node.name.endswith(("_input", "attn_in")) else [node.name]
