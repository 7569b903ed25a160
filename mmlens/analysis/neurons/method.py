"""The contract of methods that score neurons, and their registry."""

from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias

import torch
from jaxtyping import Float

from mmlens.analysis.neurons.points import NeuronLayers
from mmlens.analysis.neurons.projection import readable_mlps
from mmlens.analysis.neurons.token_targets import TokenTargets
from mmlens.core.errors import InputError
from mmlens.core.gradients import require_autograd
from mmlens.core.kinds import Accepts
from mmlens.core.names import Part
from mmlens.core.registry import Method, Registry
from mmlens.models.hooked import HookedMultimodal


@dataclass(frozen=True)
class NeuronMethod(Method):
    """How neurons are scored for tokens; derive from it, register, and `find_neurons` takes it.

    `needs` are among `"gradients"` (torch can differentiate), `"language"` (neurons at the position that predicts the token)
    and `"weights"` (rows of `W_out` that can be read).
    """

    def check(self, model: HookedMultimodal, layers: NeuronLayers) -> None:
        """Refuse what the method cannot do, before anything runs.

        Raises:
            InputError: if a need is not met; `UnsupportedModelError` for weights that cannot be read.
        """
        if "gradients" in self.needs:
            require_autograd(f"method={self.name!r}")
        score = model.family.score
        writing: tuple[Part, ...] = ("language",) if score is None else score.linear
        if "language" in self.needs and layers.part not in writing and score is not None:
            others = ", ".join(map(repr, NEURON_METHODS.without("language")))
            raise InputError(
                f"method={self.name!r} reads neurons at the row that an embedding is made of by one matrix, and in the "
                f"{layers.part} part of {model.family.name} attention and an MLP make it of all rows; use one of {others}."
            )
        if "language" in self.needs and layers.part not in writing:
            others = ", ".join(map(repr, NEURON_METHODS.without("language")))
            raise InputError(
                f"method={self.name!r} reads neurons at the position that predicts the token, and those of the {layers.part} "
                f"part see none and do not write into the language model's stream; use one of {others}."
            )
        if "weights" in self.needs:
            readable_mlps(model.part(layers.part).blocks)

    def scores(
        self, model: HookedMultimodal, targets: TokenTargets, layers: NeuronLayers
    ) -> Float[torch.Tensor, "entry layer neuron"]:
        """The score of every neuron for each of the tokens, on the CPU.

        Args:
            model: the hooked model.
            targets: the tokens, and where each is predicted.
            layers: the neurons.
        """
        raise NotImplementedError


NEURON_METHODS: Registry[NeuronMethod] = Registry("scoring neurons", NeuronMethod, verb="mm.find_neurons")
#: A method by name, or its settings.
NeuronChoice: TypeAlias = Annotated[str | NeuronMethod, Accepts(Any), NEURON_METHODS.condition]
