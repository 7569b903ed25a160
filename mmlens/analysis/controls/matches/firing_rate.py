"""Random features that fire as often."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from mmlens.analysis.controls.match import MATCHES
from mmlens.analysis.controls.matches.activation import Activation


@MATCHES.register("firing_rate")
@dataclass(frozen=True)
class FiringRate(Activation):
    """Units of the same points that are not 0 about as often: for features of sparse dictionaries.

    Attributes:
        nearest: among how many of the next in rate each one is drawn.
        positions: over which positions rows are counted.
    """

    quantity: ClassVar[str] = "share of rows in which it is not 0"

    def of(self, rows: torch.Tensor) -> torch.Tensor:
        """1 for each unit that is not 0 in a row; of a head, in any entry."""
        return (rows != 0).float() if rows.ndim == 2 else (rows != 0).flatten(2).any(2).float()
