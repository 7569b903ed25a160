"""Attention heads in the order of how they look at pictures."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float

from mmlens.core.contract import checked, checked_result
from mmlens.core.errors import InputError
from mmlens.core.kinds import Count
from mmlens.core.pictures import drawn_by
from mmlens.core.saved import Saved
from mmlens.core.unit_sets import Units
from mmlens.core.units import Head
from mmlens.core.view import Viewable

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure, SubFigure


@checked_result
@dataclass(frozen=True, repr=False)
class HeadRanking(Viewable, Saved):
    """Heads of the language model by how they look at pictures.

    Attributes:
        scores: by layer and head, larger first; the unit is the method's.
        ties: what decides between equal scores, smaller first.
        readings: means over the samples of what was read: attention to the picture (0 to 1), entropy (nats).
        layers: the layers that were read.
        method: how they were ranked; see `mm.rank_heads`.
        samples: how many samples.
        identity: what decided the values.
    """

    scores: Float[torch.Tensor, "layer head"]
    ties: Float[torch.Tensor, "layer head"]
    readings: Mapping[str, Float[torch.Tensor, "layer head"]]
    layers: tuple[int, ...]
    method: str
    samples: int
    identity: Mapping[str, str] = field(default_factory=dict, compare=False)

    def __repr__(self) -> str:
        best = ", ".join(f"{head} {self[head]:.3f}" for head in self._order[:3])
        layers, heads = self.scores.shape
        return f"HeadRanking({self.method}, {layers} layers x {heads} heads over {self.samples} samples; top: {best})"

    @checked
    def __getitem__(self, head: Head) -> float:
        if head.layer not in self.layers or head.index >= self.scores.shape[1]:
            raise InputError(
                f"{head} was not ranked: there are {self.scores.shape[1]} heads of the layers {list(self.layers)}."
            )
        return float(self.scores[self.layers.index(head.layer), head.index])

    @property
    def _order(self) -> list[Head]:
        flat = list(zip((-self.scores).flatten().tolist(), self.ties.flatten().tolist(), range(self.scores.numel())))
        heads = self.scores.shape[1]
        return [Head(self.layers[number // heads], number % heads) for *_, number in sorted(flat)]

    @checked
    def top(self, k: Count = 3) -> Units:
        """The first k heads: `mm.attention_map(model, batch, heads=ranking.top(3))` shows where they look.

        Raises:
            InputError: if there are not as many.
        """
        if k > self.scores.numel():
            raise InputError(f"k={k} must lie in 1..{self.scores.numel()}, the number of heads.")
        return Units(self._order[:k])

    def to_frame(self) -> "pd.DataFrame":
        """A row per head, best first: its score, and the means of what was read."""
        import pandas as pd

        rows = []
        for head in self._order:
            place = self.layers.index(head.layer), head.index
            means = {name: float(values[place]) for name, values in self.readings.items()}
            rows.append({"head": str(head), "layer": head.layer, "score": float(self.scores[place]), **means})
        return pd.DataFrame(rows)

    @checked
    def plot(self, *, figure: "Figure | SubFigure | None" = None) -> "Figure":
        """The scores, layers by heads."""
        return drawn_by("heads.plot_heads")(self, figure=figure)
