"""The contract of methods that change how a model answers, so that it hallucinates less, and their registry."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias

from mmlens.analysis.mitigation.controls import random_like
from mmlens.analysis.samples.sample import Sample
from mmlens.core.errors import InputError
from mmlens.core.kinds import Accepts, With
from mmlens.core.registry import Method, Registry
from mmlens.core.wording import short
from mmlens.inputs.batch import MultimodalBatch
from mmlens.models.contrast.method import ContrastMethod
from mmlens.models.contrast.methods.permuted import Permuted
from mmlens.models.hooked import HookedMultimodal
from mmlens.models.refusal import refuse_generation
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

    def control(self, model: HookedMultimodal, seed: int) -> "Force | None":
        """As strong a change, of something else (see `mmlens.analysis.mitigation.controls`), contrasts of other tokens.

        None where one of the interventions has no such control: without it the others would be weaker than the method.

        Args:
            model: the hooked model.
            seed: of what is drawn.
        """
        controls = [random_like(act, model, seed) for act in self.interventions]
        acts = tuple(control for control in controls if control is not None)
        contrast = None if self.contrast is None else Permuted(self.contrast, seed)
        return None if len(acts) < len(controls) or not (acts or contrast) else Force(acts, contrast)

    def check(self, model: HookedMultimodal, batch: MultimodalBatch, max_new_tokens: int) -> None:
        """Refuse a batch that cannot be answered with this in force, without running anything; raises InputError."""
        with model.intervene(*self.interventions):
            refuse_generation(model, batch, contrast=self.contrast, max_new_tokens=max_new_tokens)


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

    def rehearsal(self, model: HookedMultimodal, samples: Sequence[Sample], batch: MultimodalBatch) -> Force:
        """Something of the same form as `force`, made without running the model.

        Args:
            model, samples, batch: as for `force`.

        Raises:
            InputError: if it cannot be done to this batch.
        """
        return self.force(model, samples, batch)

    def check(
        self, model: HookedMultimodal, samples: Sequence[Sample], batch: MultimodalBatch, max_new_tokens: int
    ) -> bool:
        """Refuse, before any forward pass, a batch that cannot be answered with the method in force.

        Args:
            model, samples, batch: as for `force`.
            max_new_tokens: upper bound on an answer.

        Returns:
            Whether its random control can be in force for this batch.

        Raises:
            InputError: if it cannot be answered.
        """
        force = self.rehearsal(model, samples, batch)
        force.check(model, batch, max_new_tokens)
        control = force.control(model, 0)
        if control is None:
            return False
        try:
            control.check(model, batch, max_new_tokens)
        except InputError:  # no other rows that a query sees, say
            return False
        return True


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
