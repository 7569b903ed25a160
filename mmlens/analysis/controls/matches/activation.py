"""Random units that are as active."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float

from mmlens.analysis.controls.match import MATCHES, Match
from mmlens.analysis.controls.unit_means import point_means, unit_sizes
from mmlens.analysis.samples.sample import Data
from mmlens.core.kinds import Count
from mmlens.core.rules import Positions
from mmlens.models.hooked import HookedMultimodal


@MATCHES.register("activation")
@dataclass(frozen=True)
class Activation(Match):
    """Units of the same blocks that are about as active, by the mean size of what they hand to the last linear.

    Attributes:
        nearest: among how many of the next in size each one is drawn.
        positions: over which positions the mean is; `"last"` for where the next word is decided.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"data"})
    quantity: ClassVar[str] = "mean size of the activation"

    nearest: Count = 10
    positions: Positions = "all"

    @property
    def pool(self) -> int:
        return self.nearest

    def sizes(
        self, model: HookedMultimodal, points: Sequence[str], data: Data | None
    ) -> dict[str, Float[torch.Tensor, "unit"]]:
        return point_means(
            model, () if data is None else data, points, positions=self.positions, progress=False, of=self.of
        )

    def of(self, rows: torch.Tensor) -> torch.Tensor:
        """What the mean is taken of, of each unit in each row."""
        return unit_sizes(rows)
