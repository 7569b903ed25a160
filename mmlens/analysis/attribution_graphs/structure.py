"""What is held fast so that a model is linear, and where what it computes begins."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from inspect import signature

import torch
from torch import nn

from mmlens.analysis.features.dictionary import SparseDictionary
from mmlens.core.errors import InputError
from mmlens.core.names import Part
from mmlens.hooks.attention import kernel_of
from mmlens.hooks.indirect import NormScale
from mmlens.hooks.nodes import Node
from mmlens.hooks.point import Point
from mmlens.hooks.site import Site
from mmlens.models.hooked import HookedMultimodal
from mmlens.models.splices import Splices


@dataclass(frozen=True)
class Cut:
    """A place whose output is taken for constant: an MLP, another branch that is no attention, what a dictionary writes.

    Attributes:
        node: the point that holds the output.
        dictionary: whose features and error the output is; None: all of it is error.
        source: what the dictionary reads, if that is another point.
    """

    node: Node
    dictionary: SparseDictionary | None = None
    source: Point | None = None

    @property
    def name(self) -> str:
        """The name of the point."""
        return self.node.name


@dataclass(frozen=True)
class Entrance:
    """A point whose rows are sources.

    Attributes:
        node: the point.
        text_only: rows of pictures are no sources here, since what they are made of is part of the graph.
    """

    node: Node
    text_only: bool = False


@dataclass(frozen=True)
class Structure:
    """All that is held fast, and where.

    Attributes:
        cuts: in execution order.
        entrances: in execution order.
        scales, patterns: points of norms' divisors and of attention patterns.
        gates: MLPs without a cut, by what their points begin with: whether they are gated.
        points: those that the model has no name for: norms behind branches.
        parts: the towers that are in the graph.
    """

    cuts: tuple[Cut, ...]
    entrances: tuple[Entrance, ...]
    scales: tuple[str, ...]
    patterns: tuple[str, ...]
    gates: dict[str, bool]
    points: dict[str, Point]
    parts: tuple[Part, ...]


def structure_of(model: HookedMultimodal, dictionaries: Sequence[SparseDictionary]) -> Structure:
    """What is held fast in a model, given the dictionaries whose features are nodes.

    The vision encoder and the projector are in the graph if one of the dictionaries stands there; else the language model alone,
    whose sources are what its first block receives.

    Raises:
        InputError: for dictionaries that cannot be there, or that change the scale of what they read.
    """
    splice_sites = Splices(model).sites(dictionaries)
    graph = model.plain_graph
    for name, (dictionary, _) in splice_sites.items():
        if dictionary.normalization != "none":
            raise InputError(
                f"The dictionary at {name} normalises what it reads ({dictionary.normalization}), so that its codes are not "
                "linear in the stream; attribution graphs need one with normalization='none'."
            )
        if graph[name].dead:
            raise InputError(f"{name} reaches nothing: {graph[name].dead}.")
    in_towers = any(graph[name].part != "language" for name in splice_sites)
    parts: tuple[Part, ...] = ("vision", "projector", "language") if in_towers else ("language",)
    cuts = [
        Cut(node, *splice_sites.get(node.name, (None, None)))
        for node in graph
        if node.name in splice_sites or (node.part in parts and not node.dead and _is_opaque(model, node))
    ]
    nodes = [node for node in graph if node.part in parts and not node.dead]
    scales = [node.name for node in nodes if node.kind.endswith("scale")]
    bare = _bare_norms(model)
    return Structure(
        tuple(cuts),
        tuple(_entrances(model, in_towers)),
        (*scales, *bare),
        tuple(node.name for node in nodes if node.name.endswith("hook_pattern")),
        _gates(model, {cut.name for cut in cuts}) if in_towers else {},
        bare,
        parts,
    )


def _is_opaque(model: HookedMultimodal, node: Node) -> bool:
    """Whether a point holds what a branch of a block writes that is no attention with a pattern."""
    if node.role != "writes" or node.layer is None:
        return False
    branch = node.name.replace("hook_", "").removesuffix("_out")
    return not branch.endswith("attn") or kernel_of(model.hook_dict, branch) is None


def _entrances(model: HookedMultimodal, in_towers: bool) -> list[Entrance]:
    """The first points of streams, and what enters the language model elsewhere: DeepStack, memories of cross-attention."""
    graph = model.plain_graph
    first = {node.name: node for node in graph if node.role == "writes" and node.layer is None}
    behind_projector = {
        name for name in first if any(graph[p].part == "projector" for p in graph.digraph.predecessors(name))
    }
    if in_towers:
        entrances = [
            Entrance(node, name in behind_projector)
            for name, node in first.items()
            if node.part in ("vision", "language")
        ]
    else:
        beside = [
            node
            for node in graph
            if node.part != "language"
            and any(graph[s].part == "language" and s not in first for s in graph.digraph.successors(node.name))
        ]
        entrances = [
            Entrance(node) for node in graph if node in beside or (node.name in first and node.part == "language")
        ]
    maps = [entrance.node.name for entrance in entrances if "row column" in entrance.node.axes]
    if maps:
        raise InputError(
            f"{maps[0]} holds a map and no rows of states, so that patches are no sources there; leave dictionaries of the "
            "vision encoder and the projector out."
        )
    return entrances


def _gates(model: HookedMultimodal, cuts: set[str]) -> dict[str, bool]:
    """The projector's MLPs that stand in no block: whether they are gated."""
    projector, gates = model.family.projector, {}
    for name in model.plain_graph.names:
        prefix = name.removesuffix(".hook_act")
        if prefix == name or not name.startswith("projector.") or ".blocks." in name:
            continue
        deep = projector.deepstack if ".deepstack." in name else None
        mlp = deep.mlp if deep is not None else projector.mlp
        if f"{prefix.removesuffix('.mlp')}.hook_out" not in cuts:
            gates[prefix] = mlp is not None and bool(mlp.gate or mlp.gate_up)
    return gates


def _bare_norms(model: HookedMultimodal) -> dict[str, Point]:
    """Points of the divisors of norms that the model has no point for: behind branches, between projections."""
    attachments = [point.attachment for point in model.hook_dict.values()]
    norm_modules = {attachment.module for attachment in attachments if isinstance(attachment, NormScale)}
    points: dict[str, Point] = {}
    for path, module in model.base.named_modules():
        if module in norm_modules or not _is_row_norm(module):
            continue
        eps = next((getattr(module, key) for key in ("variance_epsilon", "eps") if hasattr(module, key)), 0.0)
        scale = NormScale(
            module,
            is_centred=_is_centred(module),
            eps=float(eps),
            bias=partial(_bias, module),
            inputs=Site(module, "in"),
            outputs=Site(module, "out"),
        )
        name = f"norm:{path}"
        points[name] = Point(name, scale)
    return points


def _bias(module: nn.Module) -> torch.Tensor | None:
    bias = getattr(module, "bias", None)
    return bias if isinstance(bias, torch.Tensor) else None


def _is_row_norm(module: nn.Module) -> bool:
    """Whether a module is a norm of rows: it has no matrix and no part, takes rows alone, and not maps."""
    if "norm" not in type(module).__name__.lower() or list(module.children()):
        return False
    arguments = [p for p in signature(module.forward).parameters.values() if p.default is p.empty]
    of_maps = isinstance(module, nn.GroupNorm | nn.modules.batchnorm._BatchNorm)
    of_maps |= getattr(module, "data_format", "channels_last") == "channels_first"
    return len(arguments) == 1 and not of_maps and all(parameter.ndim == 1 for parameter in module.parameters())


@torch.no_grad()
def _is_centred(module: nn.Module) -> bool:
    """Whether a norm is the same for rows that differ by a constant."""
    gain = next(module.parameters(), None)
    if gain is None:
        return isinstance(module, nn.LayerNorm)
    rows = torch.arange(len(gain), dtype=torch.float32).sin()[None].to(gain.device, gain.dtype)
    outputs = module.forward(torch.cat([rows, rows + 1]))
    return bool(torch.allclose(outputs[0], outputs[1], atol=0.05))
