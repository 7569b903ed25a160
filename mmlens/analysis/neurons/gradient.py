"""What each neuron does for a token's logit on every path, to first order or along the way from silence."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from jaxtyping import Float

from mmlens.analysis.neurons.points import NeuronLayers
from mmlens.analysis.neurons.token_targets import TokenTargets, wide
from mmlens.core.errors import InputError
from mmlens.hooks.point import reads_only
from mmlens.models.hooked import HookedMultimodal

#: Over which positions of the language model activation times gradient is summed.
Where = Literal["last", "image", "all"]


def gradients(
    model: HookedMultimodal, asked: TokenTargets, layers: NeuronLayers, positions: Where
) -> Float[torch.Tensor, "entry layer neuron"]:
    """`sum over positions of a[l, i] * d logit(t) / d a[l, i]` (Schwettmann et al., 2023)."""
    names = layers.names()
    held: dict[str, torch.Tensor] = {}

    def hold(activation: torch.Tensor, hook: Any) -> torch.Tensor:
        held[hook.name] = activation if activation.requires_grad else activation.requires_grad_()
        return held[hook.name]

    groups = _groups(asked, layers)
    scores = torch.zeros(len(asked.sample), layers.count, layers.width, dtype=_width(model))
    with _differentiable(model), model.hooks([(names, hold)]):
        values = _logits(model, asked)
        for number, entries in enumerate(groups):
            found = torch.autograd.grad(
                values[entries].sum(),
                [held[name] for name in names],
                retain_graph=number < len(groups) - 1,
                allow_unused=True,  # vision blocks behind the one that is read
            )
            for layer, (name, gradient) in enumerate(zip(names, found, strict=True)):
                if gradient is not None:
                    product = wide(held[name].detach()) * wide(gradient)
                    scores[entries, layer] = _gathered(model, asked, name, product, entries, positions)
    return scores


def integrated_gradients(
    model: HookedMultimodal, asked: TokenTargets, layers: NeuronLayers, positions: Where, steps: int, together: bool
) -> Float[torch.Tensor, "entry layer neuron"]:
    """`a[l, i] * mean over alpha of d logit(t) / d a[l, i]`, with activations at `alpha` times their value.

    Midpoints of `steps` equal parts of 0..1; either all layers go from zero together, or each by itself.
    """
    names = layers.names()
    groups = _groups(asked, layers)
    scores = torch.zeros(len(asked.sample), layers.count, layers.width, dtype=_width(model))
    with _differentiable(model):
        clean = _whole(model, asked, names)
        for entries in groups:
            for moved in [names] if together else [[name] for name in names]:
                for name, total in _path(model, asked, clean, moved, entries, positions, steps).items():
                    found = _gathered(model, asked, name, wide(clean[name]) * total, entries, positions)
                    scores[entries, names.index(name)] = found
    return scores


def _width(model: HookedMultimodal) -> torch.dtype:
    """The model's dtype, float32 at least."""
    return torch.promote_types(next(model.hf_model.parameters()).dtype, torch.float32)


def _path(
    model: HookedMultimodal,
    asked: TokenTargets,
    clean: dict[str, torch.Tensor],
    moved: list[str],
    entries: torch.Tensor,
    positions: Where,
    steps: int,
) -> dict[str, torch.Tensor]:
    """The mean gradient along the path on which the moved points' chosen rows go from zero to their value."""
    chosen = {name: _chosen(model, asked, name, clean[name], entries, positions) for name in moved}
    total = {name: torch.zeros_like(wide(clean[name])) for name in moved}
    for step in range(steps):
        alpha = (step + 0.5) / steps
        leaves = {name: (alpha * clean[name]).requires_grad_() for name in moved}

        def put(activation: torch.Tensor, hook: Any, leaves: dict[str, torch.Tensor] = leaves) -> torch.Tensor:
            return torch.where(chosen[hook.name], leaves[hook.name], activation)

        with model.hooks([(moved, put)]):
            value = _logits(model, asked)[entries].sum()
            found = torch.autograd.grad(value, list(leaves.values()), allow_unused=True)
        for name, gradient in zip(moved, found, strict=True):
            if gradient is not None:
                total[name] += wide(gradient) / steps
    return total


def _groups(asked: TokenTargets, layers: NeuronLayers) -> list[torch.Tensor]:
    """Entries whose gradients one backward pass gives: rows of the language model are a sample's own, others' need not be."""
    if layers.part == "language":
        return asked.each()
    return [torch.tensor([entry]) for entry in range(len(asked.sample))]


def _logits(model: HookedMultimodal, asked: TokenTargets) -> Float[torch.Tensor, "entry"]:
    """The logit of each entry's token where it is predicted, as the model returns it."""
    logits = model(asked.batch)
    rows = asked.rows(model.graph["hook_logits"], logits.shape[1])
    return logits[asked.sample.to(logits.device), rows.to(logits.device), asked.token.to(logits.device)]


def _whole(model: HookedMultimodal, asked: TokenTargets, names: list[str]) -> dict[str, torch.Tensor]:
    """The points' tensors of the unchanged run."""
    clean: dict[str, torch.Tensor] = {}

    @reads_only
    def keep(activation: torch.Tensor, hook: Any) -> None:
        clean[hook.name] = activation.detach().clone()

    hook: Callable[..., None] = keep
    with torch.no_grad():
        model.run_with_hooks(asked.batch, fwd_hooks=[(names, hook)])
    return clean


def _chosen(
    model: HookedMultimodal,
    asked: TokenTargets,
    name: str,
    activation: torch.Tensor,
    entries: torch.Tensor,
    positions: Where,
) -> torch.Tensor:
    """True at the rows that count, broadcastable to the activation; everything outside the language model."""
    node = model.graph[name]
    if node.part != "language":
        return torch.ones((), dtype=torch.bool, device=activation.device)
    mask = torch.zeros(activation.shape[:2], dtype=torch.bool)
    if positions == "last":
        mask[asked.sample[entries], asked.rows(node, activation.shape[1])[entries]] = True
    elif positions == "image":
        mask |= asked.batch.layout.is_image
    else:
        mask[:] = True
    return mask[..., None].to(activation.device)


def _gathered(
    model: HookedMultimodal,
    asked: TokenTargets,
    name: str,
    product: torch.Tensor,
    entries: torch.Tensor,
    positions: Where,
) -> Float[torch.Tensor, "some neuron"]:
    """The sum over the rows that count, one line per entry."""
    product = product * _chosen(model, asked, name, product, entries, positions)
    if model.graph[name].part != "language":
        return product.flatten(0, -2).sum(0, keepdim=True).cpu()
    return product.sum(1).cpu()[asked.sample[entries]]


def require_positions(model: HookedMultimodal, layers: NeuronLayers, positions: Where | None) -> Where:
    """The positions that gradient methods sum over: by default the predicting one, and all rows outside the language model.

    Raises:
        InputError: for positions that do not exist there.
    """
    if layers.part != "language":
        if positions not in (None, "all"):
            raise InputError(
                f"positions={positions!r} is a rule for the language model; in the {layers.part} part scores are summed over all "
                "rows (positions='all')."
            )
        return "all"
    if positions not in (None, "last", "image", "all"):
        raise InputError(f"positions={positions!r} must be one of 'last', 'image', 'all'.")
    if positions == "image" and model.graph[layers.names()[0]].sequence != "language":
        raise InputError(
            "positions='image' has no meaning in a decoder that reads the picture through cross-attention."
        )
    return positions or "last"


@contextmanager
def _differentiable(model: HookedMultimodal) -> Iterator[None]:
    """Gradients on, but none of parameters: what lies in front of the first hooked point then keeps no graph."""
    trained = [parameter for parameter in model.hf_model.parameters() if parameter.requires_grad]
    try:
        for parameter in trained:
            parameter.requires_grad_(False)
        with torch.enable_grad():
            yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
