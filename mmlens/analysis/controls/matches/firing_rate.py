"""Random features that fire as often."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float

from mmlens.analysis.controls.match import MATCHES, Match
from mmlens.analysis.means import point_means
from mmlens.analysis.samples import Data
from mmlens.core.kinds import Count
from mmlens.core.rules import Positions
from mmlens.models.hooked import HookedMultimodal


@MATCHES.register("firing_rate")
@dataclass(frozen=True)
class FiringRate(Match):
    """Units of the same points that are not 0 about as often: for features of sparse dictionaries.

    Attributes:
        nearest: among how many of the next in rate each one is drawn.
        positions: over which positions rows are counted.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"data"})
    quantity: ClassVar[str] = "share of rows in which it is not 0"

    nearest: Count = 10
    positions: Positions = "all"

    @property
    def pool(self) -> int:
        return self.nearest

    def sizes(
        self, model: HookedMultimodal, points: Sequence[str], data: Data | None
    ) -> dict[str, Float[torch.Tensor, "unit"]]:
        return point_means(
            model, () if data is None else data, points, positions=self.positions, progress=False, of=_fires
        )


def _fires(rows: torch.Tensor) -> torch.Tensor:
    """1 for each unit that is not 0 in a row; of a head, in any entry."""
    return (rows != 0).float() if rows.ndim == 2 else (rows != 0).flatten(2).any(2).float()
