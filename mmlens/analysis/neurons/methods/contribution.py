"""Contribution: what a neuron writes for a token."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float

from mmlens.analysis.neurons.method import NEURON_METHODS, NeuronMethod
from mmlens.analysis.neurons.points import ActivationPoint, NeuronLayers, require_points
from mmlens.analysis.neurons.projection import projections, readable_mlps, stack_layers
from mmlens.analysis.neurons.token_targets import TokenTargets, in_float32, states_at, written_directions
from mmlens.models.hooked import HookedMultimodal


@NEURON_METHODS.register("contribution")
@dataclass(frozen=True)
class Contribution(NeuronMethod):
    """Activation times what the neuron's row of `W_out` says about the token, before the final norm.

        score[l, i] = q[l, i] * (W_out[l, i] . W_U[:, t])

    with q the activation at the position that predicts token t. The residual stream is a sum, so this is what the neuron adds
    to the token's logit, up to the final norm and to what later layers make of it. One forward pass. In a dual encoder W_U[:, t]
    is the direction of the other tower's embedding, pulled back through the projection (see `DirectEffect`); two passes.

    Attributes:
        activation: what q is: `"down_in"`, the exact multiplier of the row, or `"act"` as in the published code.

    Source: Pan, Cao, Wang, Yang, Wang, "Finding and Editing Multi-Modal Neurons in Pre-Trained Transformers", Findings of ACL
    2024 (https://arxiv.org/abs/2311.07470), section on neuron contribution.
    *Departs:* the published code took the activation function's output (`"act"`), which leaves out the gate's partner in gated
    MLPs and can have the wrong sign.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"language", "weights"})

    activation: ActivationPoint = "down_in"

    def check(self, model: HookedMultimodal, layers: NeuronLayers) -> None:
        super().check(model, layers)
        require_points(model, layers, self.activation)

    def scores(
        self, model: HookedMultimodal, targets: TokenTargets, layers: NeuronLayers
    ) -> Float[torch.Tensor, "entry layer neuron"]:
        names = layers.names(self.activation)
        directions, indices = written_directions(model, targets, layers.part, normed=False)
        mlps = readable_mlps(model.part(layers.part).blocks)
        states = states_at(model, targets, names)
        return stack_layers([
            in_float32(states[name]) * projections(mlp, directions, indices) for name, mlp in zip(names, mlps, strict=True)
        ])  # fmt: skip
