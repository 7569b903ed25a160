"""Weights alone: what a neuron would write for a token if it were active."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float

from mmlens.analysis.neurons.method import NEURON_METHODS, NeuronMethod
from mmlens.analysis.neurons.points import NeuronLayers
from mmlens.analysis.neurons.projection import projections, readable_mlps, stack_layers
from mmlens.analysis.neurons.token_targets import TokenTargets
from mmlens.models.hooked import HookedMultimodal


@NEURON_METHODS.register("weights")
@dataclass(frozen=True)
class Weights(NeuronMethod):
    """What the neuron's row of `W_out` says about the token, whatever its activation: a control.

        score[l, i] = W_out[l, i] . W_U[:, t]

    The same in every picture, and for a model that sees nothing: what these neurons share with those that were found is no
    matter of what the model does. No forward pass.

    Source: the second factor of `Contribution`.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"language", "weights"})

    def scores(
        self, model: HookedMultimodal, targets: TokenTargets, layers: NeuronLayers
    ) -> Float[torch.Tensor, "entry layer neuron"]:
        tokens, indices = targets.token.unique(return_inverse=True)
        directions = model.W_U.T[tokens.to(model.W_U.device)]
        return stack_layers([projections(mlp, directions, indices) for mlp in readable_mlps(model.blocks)])
