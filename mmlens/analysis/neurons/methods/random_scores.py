"""Random scores: the control for every finding about neurons."""

from dataclasses import dataclass

import torch
from jaxtyping import Float

from mmlens.analysis.neurons.method import NEURON_METHODS, NeuronMethod
from mmlens.analysis.neurons.points import NeuronLayers
from mmlens.analysis.neurons.token_targets import TokenTargets
from mmlens.core.kinds import Seed
from mmlens.models.hooked import HookedMultimodal


@NEURON_METHODS.register("random")
@dataclass(frozen=True)
class Random(NeuronMethod):
    """Uniform numbers, the same for every token and sample: the control. No forward pass.

    Attributes:
        seed: of the draw.
    """

    seed: Seed = 0

    def scores(
        self, model: HookedMultimodal, targets: TokenTargets, layers: NeuronLayers
    ) -> Float[torch.Tensor, "entry layer neuron"]:
        generator = torch.Generator().manual_seed(self.seed)
        draw = torch.rand(layers.count, layers.width, generator=generator)
        return draw.expand(len(targets.sample), -1, -1)
