"""Random units that write as strongly."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float

from mmlens.analysis.controls.match import MATCHES, Match
from mmlens.analysis.samples.sample import Data
from mmlens.core.kinds import Count
from mmlens.models.hooked import HookedMultimodal
from mmlens.models.weight_rows import write_norms


@MATCHES.register("write_norm")
@dataclass(frozen=True)
class WriteNorm(Match):
    """Units of the same blocks that write about as strongly, by the norm of a neuron's row of `W_out` or a head's of `W_O`.

    Attributes:
        nearest: among how many of the next in size each one is drawn.
    """

    quantity: ClassVar[str] = "norm of the weights they write with"

    nearest: Count = 10

    @property
    def pool(self) -> int:
        return self.nearest

    def sizes(
        self, model: HookedMultimodal, points: Sequence[str], data: Data | None
    ) -> dict[str, Float[torch.Tensor, "unit"]]:
        return {point: write_norms(model, point) for point in points}
