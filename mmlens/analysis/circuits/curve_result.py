"""`CircuitCurve`: the metric of circuits of growing size, and what is made of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int

from mmlens.analysis.circuits.ratios import Functional, ratio_interval
from mmlens.analysis.circuits.selection import Ranking
from mmlens.analysis.statistics.intervals import Interval, Standing, draws_interval, standing
from mmlens.core.contract import checked, checked_result
from mmlens.core.errors import InputError
from mmlens.core.pictures import drawn_by
from mmlens.core.saved import Saved
from mmlens.core.view import Viewable

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure, SubFigure

#: The two ways in which edges are ranked, as `values` has them.
RANKINGS: tuple[Ranking, ...] = ("signed", "absolute")
#: Where areas begin.
_FIRST = 1e-3


@checked_result
@dataclass(frozen=True)
class CircuitCurve(Viewable, Saved):
    """The metric of circuits of growing size, of the whole model, and with all edges ablated.

    Attributes:
        shares: of all edges, rising.
        n_edges: how many edges the circuits have, without those on no path.
        total: how many edges there are.
        values: the metric when only a circuit's edges carry the clean run; ranked by `RANKINGS`: signed, absolute.
        random, permuted: the same of random circuits of as many edges as the signed ones, and of the scores dealt out anew.
        whole, empty: the metric of the model, and with all edges ablated.
        metric, method, ablation: as the circuit has them.
        counted: what is counted: edges, or nodes.
        identity: what decided the values: see `mmlens.models.identity.run_identity`; empty where it is not known.
    """

    shares: Float[torch.Tensor, "size"]
    n_edges: Int[torch.Tensor, "ranking size"]
    total: int
    values: Float[torch.Tensor, "ranking size sample"]
    random: Float[torch.Tensor, "draw size sample"]
    permuted: Float[torch.Tensor, "draw size sample"]
    whole: Float[torch.Tensor, "sample"]
    empty: Float[torch.Tensor, "sample"]
    metric: str
    method: str
    ablation: str = "counterfactual"
    counted: str = "edges"
    identity: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)

    def __repr__(self) -> str:
        cpr, cmd = self.cpr(), self.cmd()
        lines = [
            f"CircuitCurve({self.method}, CPR {cpr.mean:.2f}, CMD {cmd.mean:.2f}; {len(self.whole)} samples, {self.total} "
            f"{self.counted}, ablation {self.ablation}; {self.metric}: model {float(self.whole.mean()):.3f}, all ablated "
            f"{float(self.empty.mean()):.3f})"
        ]
        for name, area in (("CPR", cpr), ("CMD", cmd)):
            others = [f"{control} {self.band(control, name)}" for control in ("random", "permuted") if len(self.random)]
            lines.append(f"  {name} {area}   {'   '.join(others)}".rstrip())
        f = self.faithfulness[0]
        sizes = [f"{float(share):.1%}: {float(value):.2f}" for share, value in zip(self.shares, f, strict=True)]
        return "\n".join([*lines, f"  f at {', '.join(sizes)}"])

    @property
    def faithfulness(self) -> Float[torch.Tensor, "ranking size"]:
        """Shares of the gap between the model and all edges ablated, by ranking: ratios of means over samples."""
        return self.ratios(self.values)

    @checked
    def ratios(self, values: Float[torch.Tensor, "*any"]) -> Float[torch.Tensor, "*means"]:
        """Faithfulness of the metric's values `[... sample]`: the mean over samples first, then the share of the gap."""
        empty = self.empty.double().mean()
        return (values.double().mean(-1) - empty) / (self.whole.double().mean() - empty)

    @checked
    def cpr(self, *, groups: Sequence[int] | None = None) -> Interval:
        """Area under the faithfulness of edges ranked by how much they help, with its interval over samples.

        Args:
            groups: which scene each sample is of, where several are of one.
        """
        return self._interval(0, self._area, groups)

    @checked
    def cmd(self, *, groups: Sequence[int] | None = None) -> Interval:
        """Area between 1 and the faithfulness of edges ranked by how much they do, with its interval over samples.

        Args:
            groups: as for `cpr`.
        """
        return self._interval(1, self._distance, groups)

    @checked
    def at(self, size: int, *, by: Ranking = "signed", groups: Sequence[int] | None = None) -> Interval:
        """The faithfulness at a size, with its interval over samples.

        Args:
            size: the number of the size, from 0; negative ones count from the end.
            by: the ranking.
            groups: as for `cpr`.
        """
        place = range(len(self.shares))[size]

        def pick(ratios: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            slopes = np.zeros_like(ratios)
            slopes[:, place] = 1
            return ratios[:, place], slopes

        return self._interval(RANKINGS.index(by), pick, groups)

    @checked
    def band(self, control: str = "random", area: str = "CPR") -> Interval:
        """The mean area of a control, and where 95% of its draws lie.

        Args:
            control: `"random"` or `"permuted"`.
            area: `"CPR"` or `"CMD"`.
        """
        return draws_interval(self._areas(control, area))

    @checked
    def standing(self, control: str = "random", area: str = "CPR") -> Standing:
        """Where the area lies among those of a control.

        Args:
            control: `"random"` or `"permuted"`.
            area: `"CPR"`; or `"CMD"`, which counts how many draws lie as far from 1 or farther.
        """
        value = self.cpr() if area == "CPR" else self.cmd()
        return standing(value.mean, self._areas(control, area))

    def _areas(self, control: str, area: str) -> np.ndarray:
        values = {"random": self.random, "permuted": self.permuted}.get(control)
        functional = {"CPR": self._area, "CMD": self._distance}.get(area)
        if values is None or functional is None:
            raise InputError(f"There is no {area!r} of {control!r}; there are CPR and CMD of 'random' and 'permuted'.")
        return functional(self.ratios(values).numpy())[0] if len(values) else np.zeros(0)

    @property
    def _weights(self) -> np.ndarray:
        """What each size counts in an area from .001 to 1: trapezoids, the last size standing for what is beyond it."""
        x = self.shares.double().numpy()
        weights = np.zeros(len(x))
        steps = np.diff(x) / 2
        weights[:-1] += steps
        weights[1:] += steps
        weights[0] += max(x[0] - _FIRST, 0)
        weights[-1] += 1 - x[-1]
        return weights

    def _area(self, ratios: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return ratios @ self._weights, np.broadcast_to(self._weights, ratios.shape)

    def _distance(self, ratios: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.abs(1 - ratios) @ self._weights, -np.sign(1 - ratios) * self._weights

    def _interval(self, ranking: int, functional: Functional, groups: Sequence[int] | None) -> Interval:
        empty = self.empty.double()
        numerators = (self.values[ranking].double() - empty).numpy()
        of_groups = None if groups is None else np.asarray(groups)
        return ratio_interval(numerators, (self.whole.double() - empty).numpy(), functional, groups=of_groups)

    def to_frame(self) -> "pd.DataFrame":
        """One row per size: edges, faithfulness with its interval by both rankings, and the means of the controls."""
        import pandas as pd

        f, rows = self.faithfulness, []
        controls = {
            name: self.ratios(getattr(self, name)).mean(0) for name in ("random", "permuted") if len(self.random)
        }
        for place, share in enumerate(self.shares.tolist()):
            row: dict[str, Any] = {"share": round(share, 6)}
            for number, by in enumerate(RANKINGS):
                interval = self.at(place, by=by)
                row |= {f"{by}_{self.counted}": int(self.n_edges[number, place]), f"{by}_f": float(f[number, place])}
                row |= {f"{by}_low": interval.low, f"{by}_high": interval.high}
            rows.append(row | {f"{name}_f": float(values[place]) for name, values in controls.items()})
        return pd.DataFrame(rows)

    @checked
    def plot(self, *, figure: "Figure | SubFigure | None" = None) -> "Figure":
        """Faithfulness against the share of edges, with its interval over samples and the bands of the controls.

        Args:
            figure: a matplotlib figure or subfigure to draw into; a new one by default.
        """
        return drawn_by("circuit_plots.plot_curve")(self, figure=figure)
