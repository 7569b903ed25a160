"""The ways of scoring neurons, and what each of them needs."""

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float

from mmlens.analysis.neurons.contribution import contributions, direct_effects
from mmlens.analysis.neurons.gradient import Where, gradients, integrated_gradients, require_positions
from mmlens.analysis.neurons.points import POINTS, Activation, NeuronLayers
from mmlens.analysis.neurons.token_targets import TokenTargets, states_at, wide
from mmlens.core.errors import InputError
from mmlens.core.gradients import require_autograd
from mmlens.models.hooked import HookedMultimodal

Method = Literal["contribution", "direct_effect", "gradient", "integrated_gradient", "activation", "random"]
#: What makes up the path of integrated gradients.
Path = Literal["together", "each"]


@dataclass(frozen=True)
class Scoring:
    """A method with its settings; see `mmlens.find_neurons`.

    Attributes:
        method: which.
        activation: for `"contribution"` and `"activation"`.
        positions: for the gradient methods.
        steps, path: for `"integrated_gradient"`.
        seed: for `"random"`.
    """

    method: Method = "contribution"
    activation: Activation = "down_in"
    positions: Where | None = None
    steps: int = 20
    path: Path = "together"
    seed: int = 0

    def settings(self) -> dict[str, Any]:
        """The settings that the method has."""
        used = {
            "contribution": ("activation",),
            "activation": ("activation",),
            "gradient": ("positions",),
            "integrated_gradient": ("positions", "steps", "path"),
            "random": ("seed",),
        }
        return {name: value for name, value in asdict(self).items() if name in used.get(self.method, ())}

    def checked(self, model: HookedMultimodal, layers: NeuronLayers) -> "Scoring":
        """The same with defaults filled in.

        Raises:
            InputError: for unknown choices, those that the method or the part does not have, and gradients under inference mode.
        """
        for name, value, known in (
            ("method", self.method, get_args(Method)),
            ("activation", self.activation, tuple(POINTS)),
            ("path", self.path, get_args(Path)),
        ):
            if value not in known:
                raise InputError(f"{name}={value!r} is unknown; it must be one of {', '.join(map(repr, known))}.")
        by_gradient = self.method in ("gradient", "integrated_gradient")
        if by_gradient:
            require_autograd(f"method={self.method!r}")
        if layers.part != "language" and not by_gradient and self.method != "random":
            raise InputError(
                f"method={self.method!r} reads what a neuron's row writes into the language model's stream, and neurons of the "
                f"{layers.part} part write into none; use 'gradient' or 'integrated_gradient'."
            )
        if self.positions is not None and not by_gradient:
            raise InputError(
                f"method={self.method!r} reads the predicting position alone; positions={self.positions!r} is for 'gradient' and "
                "'integrated_gradient'."
            )
        if self.activation != "down_in" and self.method not in ("contribution", "activation"):
            raise InputError(
                f"activation={self.activation!r} is for 'contribution' and 'activation'; {self.method!r} needs a row's exact "
                "multiplier, 'down_in'."
            )
        if self.steps < 1:
            raise InputError(f"steps={self.steps} must be at least 1.")
        missing = [name for name in layers.names(self.activation) if name not in model.graph]
        if missing:
            raise InputError(
                f"activation='act' reads the activation function's output, but {model.family.name} calls no module for it: there "
                f"is no {missing[0]}. Use activation='down_in'."
            )
        positions = require_positions(model, layers, self.positions) if by_gradient else None
        return Scoring(self.method, self.activation, positions, self.steps, self.path, self.seed)

    def entries(
        self, model: HookedMultimodal, asked: TokenTargets, layers: NeuronLayers
    ) -> Float[torch.Tensor, "entry layer neuron"]:
        """Scores of all neurons for each entry; `self` as `checked` returned it."""
        if self.method == "contribution":
            return contributions(model, asked, layers, self.activation)
        if self.method == "direct_effect":
            return direct_effects(model, asked, layers)
        if self.method == "gradient":
            return gradients(model, asked, layers, self.positions or "last")
        if self.method == "integrated_gradient":
            return integrated_gradients(
                model, asked, layers, self.positions or "last", self.steps, self.path == "together"
            )
        if self.method == "activation":
            kept = states_at(model, asked, layers.names(self.activation))
            return torch.stack([wide(kept[name]).cpu() for name in layers.names(self.activation)], dim=1)
        generator = torch.Generator().manual_seed(self.seed)
        drawn = torch.rand(layers.count, layers.width, generator=generator)
        return drawn.expand(len(asked.sample), -1, -1)
