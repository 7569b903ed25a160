"""The contract of methods that find concepts in states, and their registry."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias

import torch
from jaxtyping import Float

from mmlens.analysis.concepts.coders import Coder
from mmlens.analysis.concepts.semi_nmf import Values
from mmlens.core.errors import InputError
from mmlens.core.kinds import Accepts
from mmlens.core.registry import Method, Registry


@dataclass(frozen=True)
class Decomposition:
    """What a method made of states.

    Attributes:
        coder: encodes and decodes.
        codes: of the states, where the method has solved for them already.
        objective: what was minimised, after each step; empty where scikit-learn did it.
    """

    coder: Coder
    codes: Float[torch.Tensor, "sample concept"] | None = None
    objective: tuple[float, ...] = ()


@dataclass(frozen=True)
class ConceptMethod(Method):
    """How a few directions are found that explain states.

    `needs` are among `"states that are not negative"` and `"batches of at least n_concepts states"`.
    """

    def check(self, n_concepts: int, batch_size: int | None) -> None:
        """Refuse what the method cannot do, before states are read.

        Raises:
            InputError: if a need is not met.
        """
        enough = batch_size is None or batch_size >= n_concepts
        if "batches of at least n_concepts states" in self.needs and not enough:
            raise InputError(
                f"batch_size={batch_size} must be at least n_concepts={n_concepts} for method={self.name!r}."
            )

    def check_states(self, states: Float[torch.Tensor, "sample d_model"]) -> None:
        """Refuse states that the method cannot take.

        Raises:
            InputError: if a need is not met.
        """
        if "states that are not negative" in self.needs and bool((states < 0).any()):
            raise InputError(
                f"method={self.name!r} needs states that are nowhere negative (such as activations after a ReLU); these have "
                "negative values, as residual streams do. method='semi_nmf' takes any."
            )

    def fit(self, values: Values, n_concepts: int, batch_size: int | None) -> Decomposition:
        """Find concepts.

        Args:
            values: the states, `[sample d_model]`, in memory or in files.
            n_concepts: how many.
            batch_size: states at a time; None for all at once.
        """
        raise NotImplementedError


CONCEPT_METHODS: Registry[ConceptMethod] = Registry("finding concepts", ConceptMethod, verb="mm.extract_concepts")
#: A method by name, or its settings.
ConceptChoice: TypeAlias = Annotated[str | ConceptMethod, Accepts(Any), CONCEPT_METHODS.condition]


@dataclass(frozen=True)
class StateBatches:
    """States some at a time, in float32 on the CPU, as scikit-learn takes them.

    Attributes:
        values: all of them, in memory or in files.
        size: how many at a time.
    """

    values: Values
    size: int

    def __iter__(self) -> Iterator[Float[torch.Tensor, "sample d_model"]]:
        count = len(self.values)
        starts = range(0, count, self.size)
        # a short rest goes with the last batch: incremental methods need as many states as concepts in each
        starts = starts[:-1] if len(starts) > 1 and count % self.size else starts
        ends = [*starts[1:], count]
        return (self.values[start:end].float().cpu() for start, end in zip(starts, ends, strict=True))
