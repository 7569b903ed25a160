"""Gradient times activation: what a neuron does for a logit on every path, to first order."""

from dataclasses import dataclass
from typing import Any, ClassVar

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
from mmlens.core.rules import Positions
from mmlens.models.hooked import HookedMultimodal


@NEURON_METHODS.register("gradient_x_activation")
@dataclass(frozen=True)
class GradientXActivation(NeuronMethod):
    """Activation times the derivative of the token's logit, summed over positions: every path, to first order.

        score[l, i] = sum over positions of q[l, i] * d logit(t) / d q[l, i]

    One forward pass, and one backward pass per token.

    Attributes:
        positions: a rule (`"image"`, `"all"`, `mm.positions.box(...)`); by default the positions that predict the tokens, and
            all rows outside the language model.

    Source: Schwettmann et al., "Multimodal Neurons in Pretrained Text-Only Transformers", 2023
    (https://arxiv.org/abs/2308.01544), attribution score.
    *Departs:* the gradient is that of the logit, not of the probability, and by default of the predicting position alone.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"gradients"})

    positions: Positions | None = None

    def scores(
        self, model: HookedMultimodal, targets: TokenTargets, layers: NeuronLayers
    ) -> Float[torch.Tensor, "entry layer neuron"]:
        names = layers.names()
        states: dict[str, torch.Tensor] = {}

        def hold(activation: torch.Tensor, hook: Any) -> torch.Tensor:
            states[hook.name] = activation if activation.requires_grad else activation.requires_grad_()
            return states[hook.name]

        groups, rows = entry_groups(targets, layers), SummedRows(model, targets, names[0], self.positions)
        scores = empty_scores(model, targets, layers)
        with differentiable(model), model.hooks([(names, hold)]):
            logits = target_logits(model, targets)
            for number, entries in enumerate(groups):
                gradients = torch.autograd.grad(
                    logits[entries].sum(),
                    [states[name] for name in names],
                    retain_graph=number < len(groups) - 1,
                    allow_unused=True,  # vision blocks behind the one that is read
                )
                for layer, (name, gradient) in enumerate(zip(names, gradients, strict=True)):
                    if gradient is not None:
                        product = in_float32(states[name].detach()) * in_float32(gradient)
                        scores[entries, layer] = rows.total(name, product, entries)
        return scores
