"""The contract of methods that choose among steering interventions, what they give, and their registry."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

from mmlens.analysis.samples.sample import Dataset
from mmlens.core.contract import checked
from mmlens.core.errors import InputError
from mmlens.core.kinds import Accepts, Count, Text
from mmlens.core.registry import Method, Registry
from mmlens.interventions.steering import Steer
from mmlens.models.hooked import HookedMultimodal
from mmlens.models.runs import Intervention

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Selection:
    """Interventions in the order of their scores, and those that were chosen.

    Attributes:
        scores: of all by key, best first.
        chosen: the keys of the chosen ones, best first.
        method: how they were scored.
    """

    scores: Mapping[Hashable, float] = field(repr=False)
    chosen: tuple[Hashable, ...]
    method: str

    def __repr__(self) -> str:
        lines = [f"Selection({len(self.chosen)} of {len(self.scores)} interventions by {self.method})"]
        return "\n".join([*lines, *(f"  {key}: {self.scores[key]:g}" for key in self.chosen)])

    def to_frame(self) -> "pd.DataFrame":
        """A row per intervention, best first: key, score, and whether it was chosen."""
        import pandas as pd

        rows = [(key, score, key in self.chosen) for key, score in self.scores.items()]
        return pd.DataFrame(rows, columns=["key", "score", "chosen"])


@checked
@dataclass(frozen=True)
class Validation:
    """Samples that interventions are tried on.

    Attributes:
        dataset: the samples.
        prompt: asked where a sample brings none.
        batch_size: samples at a time.
        progress: show a progress bar.
    """

    dataset: Dataset
    prompt: Text | None
    batch_size: Count
    progress: bool


@dataclass(frozen=True)
class SelectionMethod(Method):
    """How one chooses among interventions.

    `needs` are among `"dataset"` (samples to try them on) and `"vectors"` (interventions that steer along one).
    """

    def check(
        self, model: HookedMultimodal, interventions: Mapping[Any, Intervention], validation: Validation | None
    ) -> None:
        """Refuse what the method cannot do, before any forward pass.

        Raises:
            InputError: if a need is not met, a dataset is given to no purpose, or an intervention cannot happen.
        """
        if "dataset" in self.needs and validation is None:
            raise InputError(f"method={self.name!r} tries the interventions on samples; pass a dataset.")
        if "dataset" not in self.needs and validation is not None:
            raise InputError(f"method={self.name!r} has no use for a dataset; leave it out, or use method='effect'.")
        others = [key for key, intervention in interventions.items() if not isinstance(intervention, Steer)]
        if "vectors" in self.needs and others:
            raise InputError(
                f"method={self.name!r} compares the vectors of Steer(...) interventions; {others[:5]!r} are of other kinds."
            )
        for intervention in interventions.values():
            intervention.hooks(model)

    def select(
        self, model: HookedMultimodal, interventions: Mapping[Any, Intervention], validation: Validation | None, k: int
    ) -> Selection:
        """Score the interventions and choose among them.

        Args:
            model: the hooked model.
            interventions: by key.
            validation: samples, where the method needs them.
            k: how many are chosen at most.
        """
        raise NotImplementedError


SELECTION_METHODS: Registry[SelectionMethod] = Registry(
    "choosing steering vectors", SelectionMethod, verb="mm.steering.select_vectors"
)
#: A method by name, or its settings.
SelectionChoice: TypeAlias = Annotated[str | SelectionMethod, Accepts(Any), SELECTION_METHODS.condition]
