"""The points of a path: its receivers, and the branches between a sender and these that are held."""

import re
from collections.abc import Sequence
from typing import Literal, TypeAlias

import networkx as nx

from mmlens.analysis.patching.units import Target
from mmlens.core.errors import InputError
from mmlens.hooks.graph import HookGraph
from mmlens.hooks.nodes import Node
from mmlens.models.hooked import HookedMultimodal

Freeze: TypeAlias = Literal["branches", "attention"]
_CROSS_INPUT = re.compile(r"cross_attn\.hook_[kv](_normed)?$")
_WITH_UNIT = re.compile(r"^(?P<name>.+)\[(?P<kind>[hu])(?P<number>\d+)\]$")


def receiver_of(model: HookedMultimodal, name: str) -> Target:
    """A hook point, or one head or neuron of it: `blocks.3.attn.hook_q[h2]`.

    Raises:
        InputError: for a point without such units.
    """
    match = _WITH_UNIT.match(name)
    if match is None or match["name"] not in model.graph:
        return Target(model.graph[name])
    node = model.graph[match["name"]]
    word = "head" if match["kind"] == "h" else "neuron"
    if word not in node.axes.split():
        raise InputError(f"{name} names a {word}, but {node.name} is [{node.axes}].")
    return Target(node, (int(match["number"]),))


def points_between(graph: HookGraph, sender: Node, receivers: Sequence[Target], freeze: Freeze) -> list[str]:
    """The branches on the way from a sender to the receivers, less the one that the sender is a part of.

    Raises:
        InputError: if no path leads to one of the receivers, or none but through a branch that is held.
    """
    after = set(graph.downstream(sender.name).names)
    before: set[str] = set()
    for receiver in receivers:
        if receiver.node.name not in after:
            raise InputError(
                f"No path leads from {sender.name} to {receiver.node.name}; a receiver comes after its sender."
            )
        before |= set(graph.upstream(receiver.node.name).names)
    branch = _own_branch(graph, sender)
    between = [
        node.name
        for node in graph
        if node.name in after & before
        and node.name not in branch
        and node.role == "writes"
        and node.layer is not None
        and node.part != "projector"
        and not (freeze == "attention" and "mlp" in node.kind)
    ]
    _require_open(graph, sender, receivers, between)
    return between


def _require_open(graph: HookGraph, sender: Node, receivers: Sequence[Target], names: Sequence[str]) -> None:
    """Refuse receivers that nothing can reach while branches are held: what cross-attention looks at is in no stream of its.

    Raises:
        InputError: if there is one; names what can be a receiver in its place.
    """
    free = nx.restricted_view(graph.digraph, names, [])
    open_to = nx.descendants(free, sender.name)
    for receiver in receivers:
        if receiver.node.name not in open_to:
            ways = [name for name in graph.names if name in open_to and _CROSS_INPUT.search(name)]
            raise InputError(
                f"Every path from {sender.name} to {receiver.node.name} leads through a branch that is held, so that nothing "
                f"would arrive. Name what looks at the sender as the receiver: to={ways[:2]}."
            )


def _own_branch(graph: HookGraph, sender: Node) -> set[str]:
    """What an inner point of a branch writes through: the first writing points after it."""
    if sender.role is not None:
        return set()
    names: set[str] = set()
    queue = [sender.name]
    while queue:
        for name in graph.digraph.successors(queue.pop()):
            if graph[name].role == "writes":
                names.add(name)
            elif graph[name].role is None:
                queue.append(name)
    return names
