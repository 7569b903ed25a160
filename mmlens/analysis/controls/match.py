"""The contract of rules that random units are matched by, and their registry."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float

from mmlens.analysis.samples.sample import Data
from mmlens.core.registry import Method, Registry
from mmlens.models.hooked import HookedMultimodal


@dataclass(frozen=True)
class Match(Method):
    """What random units share with those that they stand for, beside kind, block and branch.

    `needs` is `"data"` where the model has to run on something.
    """

    #: What units are compared by, in words; empty where any other unit will do.
    quantity: ClassVar[str] = ""

    def sizes(
        self, model: HookedMultimodal, points: Sequence[str], data: Data | None
    ) -> dict[str, Float[torch.Tensor, "unit"]]:
        """The number that the units of each point are compared by; none where any other unit will do.

        Args:
            model: the hooked model.
            points: hook points that hold units.
            data: what to run on, where that is needed.
        """
        return {}

    @property
    def pool(self) -> int:
        """Among how many of the next in size each unit is drawn."""
        return 0


MATCHES: Registry[Match] = Registry("matching random units", Match, verb="mm.random_units", argument="match")
