"""What MLPs receive, as hook points to collect for transcoders."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from mmlens.analysis.features.dictionary import SparseDictionary
from mmlens.core.contract import checked
from mmlens.core.errors import InputError
from mmlens.hooks.nodes import Points
from mmlens.models.hooked import HookedMultimodal


@checked
@contextmanager
def mlp_inputs(model: HookedMultimodal, at: Points = "blocks.*.hook_mlp_out") -> Iterator[dict[str, str]]:
    """Have what MLPs receive, behind their norm, as hook points inside the `with`: what transcoders are trained on.

    Args:
        model: the hooked model.
        at: what MLPs write, `"vision.blocks.*.hook_mlp_out"`.

    Yields:
        By what an MLP writes, the point of what it receives: `"blocks.3.hook_mlp_out.hook_sae_input"`.

    Raises:
        InputError: for points that are no MLP's, and where something is attached already.

    Example:
        >>> import mmlens as mm
        >>> with mm.features.mlp_inputs(model, "blocks.3.hook_mlp_out") as inputs:
        ...     store = mm.collect(model, [scene], at=[*inputs, *inputs.values()], positions="all", progress=False)
        >>> store.points
        ('blocks.3.hook_mlp_out', 'blocks.3.hook_mlp_out.hook_sae_input')
    """
    nodes = model.graph.select(at)
    others = [node.name for node in nodes if not node.name.endswith(".hook_mlp_out")]
    if others:
        raise InputError(f"{', '.join(others[:5])} are not what an MLP writes; those points are called hook_mlp_out.")
    with model.attach(*(_silent(node.name, node.width or 0) for node in nodes)):
        yield {node.name: f"{node.name}.hook_sae_input" for node in nodes}


def _silent(at: str, width: int) -> SparseDictionary:
    """A dictionary of one feature that is always 0."""
    zeros = torch.zeros
    at_in = f"{at.removesuffix('hook_mlp_out')}mlp.hook_in"
    return SparseDictionary(zeros(width, 1), zeros(1), zeros(1, width), zeros(width), at, at_in)
