"""Runs in which nodes are patched: at its hook point a node becomes what the ablation says, for all that reads it."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float

from mmlens.analysis.circuits.sources import Source
from mmlens.analysis.circuits.writing import Writing, sums_of_samples
from mmlens.core.axes import unit_axis
from mmlens.hooks.session import HookPair


def node_hooks(writing: Writing, reference: Mapping[str, torch.Tensor], amounts: torch.Tensor) -> list[HookPair]:
    """Hooks that patch nodes.

    Args:
        writing: the nodes on a model and a batch.
        reference: what every node's point becomes.
        amounts: of each node, `[writer]`: whether it is patched, or how much.
    """

    def put(source: Source) -> Callable[..., torch.Tensor]:
        def patch(activation: torch.Tensor, hook: Any) -> torch.Tensor:
            weight = _laid_out(source, writing, amounts[list(source.writers)].to(activation))
            return torch.lerp(activation, reference[source.node.name].to(activation), weight)

        return patch

    return [(source.node.name, put(source)) for source in writing.sources if amounts[list(source.writers)].any()]


def _are_units(source: Source, writing: Writing) -> bool:
    return writing.graph.writers[source.writers[0]].index is not None


def _laid_out(source: Source, writing: Writing, amounts: torch.Tensor) -> torch.Tensor:
    """Amounts of a point's nodes in a form that fits its values."""
    if _are_units(source, writing):
        axes = source.node.axes
        return amounts.reshape(-1, *[1] * (len(axes.split()) - unit_axis(axes) - 1))
    if source.masks is None:
        return amounts[0]
    return torch.einsum("gbp,g->bp", source.masks.to(amounts), amounts)[..., None]


def node_scores(
    source: Source, writing: Writing, difference: torch.Tensor, gradient: torch.Tensor
) -> Float[torch.Tensor, "writer sample"]:
    """How far a point's nodes go along the gradient at it, summed over each sample's rows.

    Args:
        source: the point.
        writing: the nodes on a model and a batch.
        difference: the ablation's values minus the clean ones.
        gradient: of the metric.
    """
    product = difference * gradient.to(difference)
    if _are_units(source, writing):
        product = product.flatten(unit_axis(source.node.axes) + 1).sum(-1) if "d_head" in source.node.axes else product
    else:
        product = product.sum(-1, keepdim=True)
        if source.masks is not None:
            product = product * source.masks.movedim(0, -1).to(product)
    return sums_of_samples(source.rows, writing.batch, product)
