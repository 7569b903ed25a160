"""How well rows of states are given back by a dictionary: sums in float64, over rows and not a mean of their ratios."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class RowQuality:
    """How well rows of one kind are given back.

    Attributes:
        rows: how many there are.
        explained_variance: 1 for all, 0 for no more than their mean.
        l0: features that a row has, on average.
    """

    rows: int
    explained_variance: float
    l0: float


class RowSums:
    """Sums over rows of one kind, in float64.

    Args:
        features: how many there are.
        width: of the states.
    """

    def __init__(self, features: int, width: int):
        self.rows, self.squares, self.rest = 0, 0.0, 0.0
        self.sum = torch.zeros(width, dtype=torch.float64)
        self.fired = torch.zeros(features, dtype=torch.float64)

    def add(self, codes: torch.Tensor, recons: torch.Tensor, error: torch.Tensor) -> None:
        """Count rows."""
        error = error.double().cpu()
        states = recons.double().cpu() + error
        self.rows += len(states)
        self.squares += float(states.square().sum())
        self.rest += float(error.square().sum())
        self.sum += states.sum(0)
        self.fired += (codes != 0).double().cpu().sum(0)

    @property
    def quality(self) -> RowQuality:
        """What they come to."""
        variance = self.squares / self.rows - float((self.sum / self.rows).square().sum())
        share = 1 - self.rest / self.rows / variance if variance > 0 else float("nan")
        return RowQuality(self.rows, share, float(self.fired.sum()) / self.rows)
