"""What a model does without nodes of a graph, beside what the graph says."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float

from mmlens.core.contract import checked, checked_result
from mmlens.core.pictures import drawn_by
from mmlens.core.saved import Saved
from mmlens.core.view import Viewable

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure, SubFigure


@checked_result
@dataclass(frozen=True)
class GraphCheck(Viewable, Saved):
    """What the model does without nodes of a graph, beside random nodes that write as much.

    A logit in the graph is that of the final norm with its divisor held fast. The model's own divisor shrinks with what is taken
    out, which gives most of a sure answer's logit back. So effects are measured with that divisor held; and in the model itself,
    where the last step of the prediction is the derivative of the final norm as it is.

    Attributes:
        nodes: the most influential features, by name.
        controls: for each, a random feature node of the same dictionary whose code times the length of its decoder's row is
            near.
        predicted: what the logits (weighted as in the graph) change by without each node and control, by the graph.
        measured: the same in the model, with nothing held but the final norm's divisor.
        predicted_free, free: both with nothing held: predictions end in the derivative of the final norm itself.
        direct: the largest difference between an edge and what its target changes by, all else held fast, as a share of the
            largest edge of that node.
    """

    nodes: tuple[str, ...]
    controls: tuple[str, ...]
    predicted: Float[torch.Tensor, "set node"]
    measured: Float[torch.Tensor, "set node"]
    predicted_free: Float[torch.Tensor, "set node"]
    free: Float[torch.Tensor, "set node"]
    direct: float

    def __repr__(self) -> str:
        return (
            f"GraphCheck({len(self.nodes)} nodes and as many controls: r = {self.r:.2f} between predicted and measured effects, "
            f"{self.r_control:.2f} with predictions swapped between node and control; with nothing held {self.r_free:.2f} and "
            f"{self.r_free_control:.2f}; mean size of effects {self.effect:.3f} logits, of controls {self.effect_control:.3f}; "
            f"direct effects off by {self.direct:.1e})"
        )

    @property
    def r(self) -> float:
        """Pearson's r between predicted and measured effects, over nodes and controls."""
        return _correlation(self.predicted, self.measured)

    @property
    def r_free(self) -> float:
        """The same with nothing held."""
        return _correlation(self.predicted_free, self.free)

    @property
    def r_free_control(self) -> float:
        """`r_free` with predictions swapped as for `r_control`."""
        return _correlation(self.predicted_free.flip(0), self.free)

    @property
    def r_control(self) -> float:
        """`r` with each node's prediction in the place of its control's, and the other way round."""
        return _correlation(self.predicted.flip(0), self.measured)

    @property
    def effect(self) -> float:
        """Mean size of the nodes' measured effects, in logits."""
        return float(self.measured[0].abs().mean())

    @property
    def effect_control(self) -> float:
        """Mean size of the controls' measured effects, in logits."""
        return float(self.measured[1].abs().mean())

    @checked
    def plot(self, *, figure: "Figure | SubFigure | None" = None) -> "Figure":
        """Draw predicted against measured effects.

        Args:
            figure: a matplotlib figure or subfigure to draw into; a new one by default.
        """
        return drawn_by("attribution_graphs.plot_graph_check")(self, figure=figure)

    def to_frame(self) -> "pd.DataFrame":
        """A row per node and control: which, predicted effect, and the measured ones, in logits."""
        import pandas as pd

        return pd.DataFrame(
            {
                "node": [*self.nodes, *self.controls],
                "set": ["graph"] * len(self.nodes) + ["control"] * len(self.controls),
                "predicted": self.predicted.flatten().tolist(),
                "measured": self.measured.flatten().tolist(),
                "predicted free": self.predicted_free.flatten().tolist(),
                "free": self.free.flatten().tolist(),
            }
        )


def _correlation(first: torch.Tensor, second: torch.Tensor) -> float:
    if not first.std() or not second.std():
        return float("nan")
    return float(np.corrcoef(first.flatten().double().numpy(), second.flatten().double().numpy())[0, 1])
