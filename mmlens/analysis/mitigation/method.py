"""The contract of methods that change how a model answers, so that it hallucinates less, and their registry."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, TypeAlias

import torch

from mmlens.analysis.samples.sample import Sample
from mmlens.core.errors import InputError
from mmlens.core.kinds import Accepts, With
from mmlens.core.registry import Method, Registry
from mmlens.core.wording import short
from mmlens.inputs.batch import MultimodalBatch
from mmlens.interventions.attention_boost import BoostAttention
from mmlens.interventions.steering import ProjectOut, Steer
from mmlens.interventions.steering_table import SteeringTable
from mmlens.interventions.steering_vector import SteeringVector
from mmlens.interventions.vector_predictor import VectorPredictor
from mmlens.models.contrast.method import ContrastMethod
from mmlens.models.contrast.methods.permuted import Permuted
from mmlens.models.hooked import HookedMultimodal
from mmlens.models.runs import Intervention


@dataclass(frozen=True)
class Force:
    """What is in force while a batch is answered.

    Attributes:
        interventions: they.
        contrast: contrastive decoding; None for plain decoding.
    """

    interventions: tuple[Intervention, ...] = ()
    contrast: ContrastMethod | None = None

    def control(self, seed: int) -> "Force | None":
        """As strong a change, of something else: random directions, random signs of attention, contrasts of other tokens.

        None where nothing in force has such a control.
        """
        acts = [random_like(act, seed) for act in self.interventions]
        contrast = None if self.contrast is None else Permuted(self.contrast, seed)
        if contrast is None and all(act is None for act in acts):
            return None
        controls = [act for control in acts if control is not None for act in control]
        return replace(self, interventions=tuple(controls), contrast=contrast)


@dataclass(frozen=True)
class MitigationMethod(Method):
    """A way of answering with less hallucination: what is in force while a batch is answered."""

    def force(self, model: HookedMultimodal, samples: Sequence[Sample], batch: MultimodalBatch) -> Force:
        """What is in force for a batch.

        Args:
            model: the hooked model, with nothing in force.
            samples: of the batch, in its order.
            batch: they, ready to run.

        Raises:
            InputError: if it cannot be done to this batch.
        """
        raise NotImplementedError


MITIGATION_METHODS: Registry[MitigationMethod] = Registry(
    "mitigating hallucination", MitigationMethod, verb="mm.mitigation_report", argument="methods"
)


def _chosen(value: Any) -> dict[str, MitigationMethod]:
    """The methods of a mapping, each by its name or with settings."""
    if not isinstance(value, Mapping) or not value or not all(isinstance(name, str) for name in value):
        raise InputError(
            f"methods={short(value)} must be a mapping from names to methods, and not empty: {{'PAI': 'boosted'}}; a method is "
            f"one of {', '.join(map(repr, MITIGATION_METHODS.names))}, or settings."
        )
    if "plain" in value:
        raise InputError("A method cannot be called 'plain', which is the model as it is; give it another name.")
    return {name: MITIGATION_METHODS.get(method) for name, method in value.items()}


#: Methods by names of the caller's: each a method's own name, or settings.
MitigationChoices: TypeAlias = Annotated[
    Mapping[str, str | MitigationMethod], Accepts(Any), With(lambda arguments, value, name: _chosen(value))
]


def random_like(act: Intervention, seed: int) -> list[Intervention] | None:
    """Interventions that change as much of something else; None for kinds that have no such control.

    A steering vector becomes a random direction of its length, each row of a table another; a boost of attention gets a random
    sign in each head.
    """
    if isinstance(act, Steer | ProjectOut) and isinstance(act.vector, SteeringVector):
        return [replace(act, vector=act.vector.random(seed=seed))]
    if isinstance(act, Steer) and isinstance(act.vector, SteeringTable):
        return [replace(act, vector=_random_table(act.vector, seed))]
    if isinstance(act, Steer) and isinstance(act.vector, VectorPredictor):
        return [replace(act, vector=_RandomPredictor(act.vector, seed))]
    if isinstance(act, BoostAttention):
        return [_SignedBoost(act, seed)]
    return None


def _random_table(table: SteeringTable, seed: int) -> SteeringTable:
    drawn = torch.randn(table.vectors.shape, generator=torch.Generator().manual_seed(seed))
    lengths = table.vectors.norm(dim=1, keepdim=True)
    return replace(table, vectors=drawn * lengths / drawn.norm(dim=1, keepdim=True), provenance={"method": "random"})


class _RandomPredictor(VectorPredictor):
    """Random directions as long as those that a predictor predicts."""

    def __init__(self, predictor: VectorPredictor, seed: int):
        self.predictor, self.seed = predictor, seed
        self.at, self.read_at = predictor.at, predictor.read_at

    def __repr__(self) -> str:
        return f"{self.predictor!r} with random directions, seed {self.seed}"

    @property
    def width(self) -> int:
        """As of the predictor."""
        return self.predictor.width

    @property
    def state_width(self) -> int:
        """As of the predictor."""
        return self.predictor.state_width

    def predict(self, states: torch.Tensor) -> torch.Tensor:
        """A random direction of each vector's length."""
        lengths = self.predictor.predict(states).norm(dim=1, keepdim=True)
        drawn = torch.randn(len(states), self.width, generator=torch.Generator().manual_seed(self.seed))
        return drawn * lengths / drawn.norm(dim=1, keepdim=True)


class _SignedBoost:
    """A boost of attention whose alpha has a random sign in each head of each layer."""

    def __init__(self, boost: BoostAttention, seed: int):
        self.boost, self.seed = boost, seed
        self._parts: list[BoostAttention] = []

    def __repr__(self) -> str:
        return f"{self.boost!r} with random signs, seed {self.seed}"

    def hooks(self, model: HookedMultimodal) -> list[Any]:
        """The hooks of two boosts: of some heads up, of the others down."""
        names = [str(name) for name, _ in self.boost.hooks(model)]
        heads = {name: model.graph.unit_counts[f"{name.rpartition('.')[0]}.hook_z"] for name in names}
        generator = torch.Generator().manual_seed(self.seed)
        signs = [
            (name, head, bool(torch.rand(1, generator=generator) < 0.5))
            for name in names
            for head in range(heads[name])
        ]
        self._parts = []
        for up in (True, False):
            units = [f"L{model.graph[name].layer}.h{head}" for name, head, is_up in signs if is_up is up]
            if units:
                alpha = self.boost.alpha if up else -self.boost.alpha
                self._parts.append(replace(self.boost, layers=None, heads=units, alpha=alpha))
        return [pair for part in self._parts for pair in part.hooks(model)]

    def starts(self, run: Any) -> None:
        """Resolve the positions of both."""
        for part in self._parts:
            part.starts(run)
