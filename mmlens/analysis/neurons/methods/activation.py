"""Activation alone: the baseline that knows nothing of the token."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float

from mmlens.analysis.neurons.method import NEURON_METHODS, NeuronMethod
from mmlens.analysis.neurons.points import ActivationPoint, NeuronLayers, require_points
from mmlens.analysis.neurons.token_targets import TokenTargets, in_float32, states_at
from mmlens.models.hooked import HookedMultimodal


@NEURON_METHODS.register("activation")
@dataclass(frozen=True)
class Activation(NeuronMethod):
    """The neuron's activation at the position that predicts the token, whatever the token is.

    The baseline "AcT" of the works on multi-modal neurons: a loud neuron that says nothing comes first.

    Attributes:
        activation: as for `Contribution`.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"language"})

    activation: ActivationPoint = "down_in"

    def check(self, model: HookedMultimodal, layers: NeuronLayers) -> None:
        super().check(model, layers)
        require_points(model, layers, self.activation)

    def scores(
        self, model: HookedMultimodal, targets: TokenTargets, layers: NeuronLayers
    ) -> Float[torch.Tensor, "entry layer neuron"]:
        names = layers.names(self.activation)
        states = states_at(model, targets, names)
        return torch.stack([in_float32(states[name]).cpu() for name in names], dim=1)
