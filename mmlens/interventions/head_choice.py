"""Heads that a verb acts on: numbers, which are meant in every layer, or units, which bring their layers along."""

from collections.abc import Iterable, Sequence
from numbers import Integral
from typing import TypeAlias, cast

import torch
from jaxtyping import Bool

from mmlens.core.errors import InputError
from mmlens.core.unit_sets import Units, UnitsLike
from mmlens.core.units import Head
from mmlens.hooks.nodes import Node
from mmlens.models.hooked import HookedMultimodal

#: Head numbers, heads as units or their names, or None for all.
HeadChoice: TypeAlias = Sequence[int] | UnitsLike | None


def head_masks(
    model: HookedMultimodal, nodes: Iterable[Node], heads: HeadChoice, layers: Sequence[int] | None, *, verb: str
) -> list[tuple[Node, Bool[torch.Tensor, "head"] | None]]:
    """The points to act on, each with True at its heads that are meant; None for all of them.

    Args:
        model: the hooked model.
        nodes: points of attention over one sequence (scores, patterns), those of the layers that are meant.
        heads: numbers of heads at each of these points; or units, whose points alone are meant.
        layers: what the caller said of layers, which units bring along themselves.
        verb: who asks, for messages.

    Raises:
        InputError: for heads that are not there, or none; for layers beside units.
    """
    nodes = list(nodes)
    if heads is None:
        return [(node, None) for node in nodes]
    by_branch = {node.name.rpartition(".")[0]: node for node in nodes}
    counts = {name: model.graph.unit_counts[f"{name}.{Head.point}"] for name in by_branch}
    if _are_numbers(heads):
        numbers = [int(head) for head in cast("Sequence[int]", heads)]
        count = min(counts.values())
        if not numbers or not all(0 <= head < count for head in numbers):
            raise InputError(f"heads={numbers} must name some of the {count} heads, 0..{count - 1}.")
        return [(node, _mask(counts[name], numbers)) for name, node in by_branch.items()]
    units = Units.of(cast("UnitsLike", heads), model, kind=Head, verb=verb)
    if layers is not None:
        raise InputError(f"layers={list(layers)} have no meaning beside heads={units}, which bring their layers along.")
    others = [str(unit) for unit in units if unit.hook.rpartition(".")[0] not in by_branch]
    if others:
        raise InputError(
            f"{verb} acts on heads of {' and '.join(dict.fromkeys(_stack(name) for name in by_branch))} here, and "
            f"{', '.join(others[:8])} lie elsewhere; name their part, stack and attention."
        )
    by_attention = {hook.rpartition(".")[0]: members for hook, members in units.by_point().items()}
    return [
        (node, _mask(counts[name], [unit.index for unit in by_attention[name]]))
        for name, node in by_branch.items()
        if name in by_attention
    ]


def _are_numbers(heads: HeadChoice) -> bool:
    if isinstance(heads, str | Units) or not isinstance(heads, Sequence):
        return False
    return all(isinstance(head, Integral) and not isinstance(head, bool) for head in heads)


def _mask(count: int, indices: Iterable[int]) -> Bool[torch.Tensor, "head"]:
    mask = torch.zeros(count, dtype=torch.bool)
    mask[list(indices)] = True
    return mask


def _stack(branch: str) -> str:
    """What the branches of a stack's blocks have in common: `vision.blocks.*.attn`."""
    return ".".join("*" if word.isdigit() else word for word in branch.split("."))
