"""Integrated gradients: what a neuron does for a logit on the way from silence to its activation."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float

from mmlens.analysis.neurons.differentiation import (
    SummedRows,
    differentiable,
    empty_scores,
    entry_groups,
    target_logits,
)
from mmlens.analysis.neurons.method import NEURON_METHODS, NeuronMethod
from mmlens.analysis.neurons.points import NeuronLayers
from mmlens.analysis.neurons.token_targets import TokenTargets, in_float32
from mmlens.core.kinds import Count
from mmlens.core.rules import Positions
from mmlens.hooks.point import reads_only
from mmlens.models.hooked import HookedMultimodal

#: Whether all layers go from zero to their activations together, or each by itself.
IntegrationPath = Literal["joint", "layerwise"]


@NEURON_METHODS.register("integrated_gradients")
@dataclass(frozen=True)
class IntegratedGradients(NeuronMethod):
    """Activation times the mean derivative of the token's logit while activations go from zero to their values.

        score[l, i] = sum over positions of q[l, i] * mean over alpha in 0..1 of d logit(t) / d q[l, i] at alpha * q

    On the joint path all scores add up to the logit that is lost when all neurons fall silent (at these positions). `steps`
    forward and backward passes per token; on the layerwise path, for each layer.

    Attributes:
        steps: midpoints of so many equal parts of 0..1.
        path: `"joint"`: all layers at once; `"layerwise"`: each by itself, as published.
        positions: as for `GradientXActivation`.

    Source: Dai et al., "Knowledge Neurons in Pretrained Transformers", ACL 2022 (https://arxiv.org/abs/2104.08696), eq. 4.
    *Departs:* the gradient is that of the logit, not of the probability; midpoints; the joint path by default.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"gradients"})

    steps: Count = 20
    path: IntegrationPath = "joint"
    positions: Positions | None = None

    def scores(
        self, model: HookedMultimodal, targets: TokenTargets, layers: NeuronLayers
    ) -> Float[torch.Tensor, "entry layer neuron"]:
        names = layers.names()
        rows = SummedRows(model, targets, names[0], self.positions)
        scores = empty_scores(model, targets, layers)
        with differentiable(model):
            clean = _clean_states(model, targets, names)
            for entries in entry_groups(targets, layers):
                for path in [names] if self.path == "joint" else [[name] for name in names]:
                    for name, gradient in self._mean_gradients(model, targets, clean, path, entries, rows).items():
                        total = rows.total(name, in_float32(clean[name]) * gradient, entries)
                        scores[entries, names.index(name)] = total
        return scores

    def _mean_gradients(
        self,
        model: HookedMultimodal,
        targets: TokenTargets,
        clean: dict[str, torch.Tensor],
        names: list[str],
        entries: torch.Tensor,
        rows: SummedRows,
    ) -> dict[str, torch.Tensor]:
        """Mean gradients at some points, while their rows go from zero to their clean values."""
        masks = {name: rows.mask(name, clean[name], entries) for name in names}
        means = {name: torch.zeros_like(in_float32(clean[name])) for name in names}
        for step in range(self.steps):
            alpha = (step + 0.5) / self.steps
            leaves = {name: (alpha * clean[name]).requires_grad_() for name in names}

            def put(activation: torch.Tensor, hook: Any, leaves: dict[str, torch.Tensor] = leaves) -> torch.Tensor:
                return torch.where(masks[hook.name], leaves[hook.name], activation)

            with model.hooks([(names, put)]):
                logit = target_logits(model, targets)[entries].sum()
                gradients = torch.autograd.grad(logit, list(leaves.values()), allow_unused=True)
            for name, gradient in zip(names, gradients, strict=True):
                if gradient is not None:
                    means[name] += in_float32(gradient) / self.steps
        return means


def _clean_states(model: HookedMultimodal, targets: TokenTargets, names: list[str]) -> dict[str, torch.Tensor]:
    """The points' tensors of the unchanged run."""
    clean: dict[str, torch.Tensor] = {}

    @reads_only
    def keep(activation: torch.Tensor, hook: Any) -> None:
        clean[hook.name] = activation.detach().clone()

    hook: Callable[..., None] = keep
    with torch.no_grad():
        model.run_with_hooks(targets.batch, fwd_hooks=[(names, hook)])
    return clean
