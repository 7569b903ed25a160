"""Graphs of nodes: each with all that reads it, at a hook point of its own, so that no stream has to be a plain sum.

Nodes are heads, whole attention branches, MLPs or their neurons, the projector and the embeddings by groups of positions; or the
features of the dictionaries that are attached, with what each dictionary does not give back as one node more.

Source: Marks et al., "Sparse Feature Circuits", ICLR 2025 (https://arxiv.org/abs/2403.19647), nodes of features and errors;
Mueller et al., "MIB", ICML 2025 (https://arxiv.org/abs/2504.13151), where a node counts with all of its out-edges.
"""

from collections.abc import Iterator, Mapping, Sequence

from mmlens.analysis.circuits.graph import EVERYTHING, EdgeGraph, NodeKind, Reader, Towers, Writer
from mmlens.analysis.circuits.groups import GroupNames
from mmlens.analysis.circuits.streams import short_block
from mmlens.core.errors import InputError
from mmlens.core.names import HookName
from mmlens.core.rules import Rule
from mmlens.core.units import Feature, Head, Neuron, Unit
from mmlens.hooks.nodes import Node
from mmlens.inputs.batch import MultimodalBatch
from mmlens.models.hooked import HookedMultimodal, WritingModel


def node_graph(
    model: WritingModel,
    batches: Sequence[MultimodalBatch],
    *,
    nodes: NodeKind,
    groups: Mapping[str, Rule],
    towers: Towers,
) -> EdgeGraph:
    """The graph of a model's nodes; arguments as for `edge_graph`.

    Raises:
        InputError: for features where no dictionary is attached, or a group that mixes picture and text.
    """
    writers = _features(model) if nodes == "feature" else _branches(model, batches, nodes, groups, towers)
    end = Reader(EVERYTHING, "language", "logits", "hook_logits", "", len(model.graph.names))
    return EdgeGraph(tuple(writers), (end,), nodes, towers, dict(groups))


def _branches(
    model: HookedMultimodal,
    batches: Sequence[MultimodalBatch],
    nodes: NodeKind,
    groups: Mapping[str, Rule],
    towers: Towers,
) -> list[Writer]:
    names = GroupNames.of(model, batches, groups)
    writers: list[Writer] = []
    for place, node in enumerate(model.graph):
        is_inside = node.part == "language" or (towers == "all" and node.part == "vision")
        if node.dead is not None:
            continue
        if node.name == "projector.hook_out" and not _reaches_prompt(model):
            writers.append(Writer("projector", "language", node.name, "", place))
        elif node.role == "writes" and is_inside and node.layer is None:
            writers += _embeddings(model, node, place, names)
        elif node.role == "writes" and is_inside:
            writers += _branch(model, node, place, nodes)
    return writers


def _reaches_prompt(model: HookedMultimodal) -> bool:
    """Whether the projector's rows are part of the prompt's embeddings, and not looked at by cross-attention."""
    successors = model.graph.digraph.successors("projector.hook_out")
    return any(model.graph[name].role == "writes" for name in successors)


def _embeddings(model: HookedMultimodal, node: Node, place: int, names: GroupNames) -> Iterator[Writer]:
    if node.part == "language" and node.sequence == "language":
        has_pictures = bool(list(model.graph.digraph.predecessors(node.name)))
        for group, name in names.writers(has_pictures=has_pictures).items():
            yield Writer(name, node.part, node.name, "", place, group=group)
    else:
        name = node.name.replace("hook_", "") if node.part == "vision" else f"embed[{node.sequence}]"
        yield Writer(name, node.part, node.name, "", place)


def _branch(model: HookedMultimodal, node: Node, place: int, nodes: NodeKind) -> Iterator[Writer]:
    """A branch of a block: its units, or as a whole."""
    block = node.name.removesuffix(f".{HookName.parse(node.name).rest}")
    branch, layer = node.kind.removesuffix("_out"), int(node.layer or 0)
    kinds: dict[str, tuple[str, type[Unit]]] = {
        "attn": (f"{block}.attn.hook_z", Head),
        "cross_attn": (f"{block}.cross_attn.hook_z", Head),
    }
    if nodes == "neuron":
        kinds["mlp"] = (f"{block}.mlp.hook_post", Neuron)
    point, kind = kinds.get(branch, ("", Unit))
    count = 0 if nodes == "attention" else model.graph.unit_counts.get(point, 0)
    for index in range(count):
        unit = kind.at(point, index)
        yield Writer(str(unit), node.part, point, "", place, layer, index, branch=node.name)
    if not count:
        name = f"{short_block(node.name)}.{branch.removesuffix('_attn')}"
        yield Writer(name, node.part, node.name, "", place, layer, branch=node.name)


def _features(model: HookedMultimodal) -> list[Writer]:
    if not model.dictionaries:
        raise InputError(
            "nodes='feature' are those of sparse dictionaries, and none is attached: with model.attach(sae): "
            "mm.find_circuit(..., nodes='feature')."
        )
    writers: list[Writer] = []
    for at in model.dictionaries:
        node = model.graph[at]
        place, layer = model.graph.names.index(at), int(node.layer or 0)
        codes, first = f"{at}.hook_sae_acts_post", str(Feature.at(f"{at}.hook_sae_acts_post", 0))
        names = [str(Feature.at(codes, index)) for index in range(model.graph.unit_counts[codes])]
        writers += [Writer(n, node.part, codes, "", place, layer, i, branch=at) for i, n in enumerate(names)]
        error = first.removesuffix("f0") + "error"
        writers.append(Writer(error, node.part, f"{at}.hook_sae_error", "", place, layer, branch=at))
    return writers
