"""Derivatives of predicted logits by neurons' activations: what the gradient methods share."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from jaxtyping import Bool, Float

from mmlens.analysis.neurons.points import NeuronLayers
from mmlens.analysis.neurons.token_targets import TokenTargets
from mmlens.core.errors import InputError
from mmlens.models.hooked import HookedMultimodal

#: Over which positions of the language model activation times gradient is summed.
SummedPositions = Literal["last", "image", "all"]


def require_positions(model: HookedMultimodal, layers: NeuronLayers, positions: SummedPositions | None) -> None:
    """Refuse positions that the neurons do not have.

    Raises:
        InputError: if so; says which they have.
    """
    if layers.part != "language" and positions not in (None, "all"):
        raise InputError(
            f"positions={positions!r} is a rule for the language model; in the {layers.part} part scores are summed over all "
            "rows (positions='all')."
        )
    if positions == "image" and model.graph[layers.names()[0]].sequence != "language":
        raise InputError(
            "positions='image' has no meaning in a decoder that reads the picture through cross-attention."
        )


@contextmanager
def differentiable(model: HookedMultimodal) -> Iterator[None]:
    """Gradients on, but none of parameters: what lies in front of the first hooked point then keeps no graph."""
    parameters = [parameter for parameter in model.hf_model.parameters() if parameter.requires_grad]
    try:
        for parameter in parameters:
            parameter.requires_grad_(False)
        with torch.enable_grad():
            yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def empty_scores(
    model: HookedMultimodal, targets: TokenTargets, layers: NeuronLayers
) -> Float[torch.Tensor, "entry layer neuron"]:
    """Zeros for every entry and neuron, in the model's dtype, float32 at least."""
    dtype = torch.promote_types(next(model.hf_model.parameters()).dtype, torch.float32)
    return torch.zeros(len(targets.sample), layers.count, layers.width, dtype=dtype)


def entry_groups(targets: TokenTargets, layers: NeuronLayers) -> list[torch.Tensor]:
    """Entries whose gradients one backward pass gives: rows of the language model are a sample's own, others' need not be."""
    if layers.part == "language":
        return targets.rounds()
    return [torch.tensor([entry]) for entry in range(len(targets.sample))]


def target_logits(model: HookedMultimodal, targets: TokenTargets) -> Float[torch.Tensor, "entry"]:
    """The logit of each entry's token where it is predicted, as the model returns it."""
    logits = model(targets.batch)
    rows = targets.rows(model.graph["hook_logits"])
    return logits[targets.sample.to(logits.device), rows.to(logits.device), targets.token.to(logits.device)]


def row_mask(
    model: HookedMultimodal,
    targets: TokenTargets,
    name: str,
    activation: torch.Tensor,
    entries: torch.Tensor,
    positions: SummedPositions | None,
) -> Bool[torch.Tensor, "..."]:
    """True at the rows of a point that are summed over, broadcastable to it; everywhere outside the language model.

    Args:
        model: the hooked model.
        targets: the tokens.
        name: the point.
        activation: what it holds, of which the shape is read.
        entries: the tokens of this pass.
        positions: the rule; None for the predicting positions.
    """
    node = model.graph[name]
    if node.part != "language":
        return torch.ones((), dtype=torch.bool, device=activation.device)
    mask = torch.zeros(activation.shape[:2], dtype=torch.bool)
    if positions == "image":
        mask |= targets.batch.layout.is_image
    elif positions == "all":
        mask[:] = True
    else:
        mask[targets.sample[entries], targets.rows(node)[entries]] = True
    return mask[..., None].to(activation.device)


def summed_rows(
    model: HookedMultimodal,
    targets: TokenTargets,
    name: str,
    product: torch.Tensor,
    entries: torch.Tensor,
    positions: SummedPositions | None,
) -> Float[torch.Tensor, "some neuron"]:
    """The sum of a product over the rows that count, one line per entry; arguments as for `row_mask`."""
    product = product * row_mask(model, targets, name, product, entries, positions)
    if model.graph[name].part != "language":
        return product.flatten(0, -2).sum(0, keepdim=True).cpu()
    return product.sum(1).cpu()[targets.sample[entries]]
