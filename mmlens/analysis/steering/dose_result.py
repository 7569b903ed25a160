"""Dose curves as they are held: a metric over strengths and points, beside its controls."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float

from mmlens.analysis.metrics import unit_of
from mmlens.analysis.statistics.intervals import Interval, as_rates, mean_interval, paired_difference
from mmlens.analysis.statistics.significance import sign_flip_p
from mmlens.analysis.steering.controls import ControlKind, word_verdict
from mmlens.core.contract import checked, checked_result
from mmlens.core.errors import InputError
from mmlens.core.pictures import drawn_by
from mmlens.core.saved import Saved
from mmlens.core.view import Viewable

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure, SubFigure


@checked_result
@dataclass(frozen=True)
class DoseCurve(Viewable, Saved):
    """A metric over strengths and points.

    Attributes:
        values: with the vector, in the unit of the metric.
        controls: the same with isotropic random vectors of equal norm, one per seed.
        baseline: without steering.
        points: hook names.
        alphas: strengths.
        metric: name and unit.
        words: with the unembedding difference of equal norm, which writes the metric's words and no more; NaN at points that the
            unembedding does not read, and for metrics of which no words are known.
        covariance: with random vectors of equal norm that have the covariance of the states, one per seed; NaN where the states
            do not differ.
        identity: what decided the values: see `mmlens.models.identity.run_identity`; empty where it is not known.
    """

    values: Float[torch.Tensor, "point alpha sample"] = field(repr=False)
    controls: Float[torch.Tensor, "seed point alpha sample"] = field(repr=False)
    baseline: Float[torch.Tensor, "sample"] = field(repr=False)
    points: tuple[str, ...]
    alphas: tuple[float, ...]
    metric: str
    words: Float[torch.Tensor, "point alpha sample"] = field(default_factory=lambda: torch.zeros(0, 0, 0), repr=False)
    covariance: Float[torch.Tensor, "draw point alpha sample"] = field(
        default_factory=lambda: torch.zeros(0, 0, 0, 0), repr=False
    )
    identity: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)

    def __repr__(self) -> str:
        point, alpha = self.best
        return (
            f"DoseCurve({self.metric}: {len(self.points)} points x {len(self.alphas)} strengths, {len(self.baseline)} samples; "
            f"{float(self.baseline.mean()):.3f} without, at most {self.interval(point, alpha)} at {point} with alpha {alpha:g})"
        )

    @property
    def best(self) -> tuple[str, float]:
        """The point and strength of the highest mean."""
        row, column = divmod(int(self.values.mean(-1).argmax()), len(self.alphas))
        return self.points[row], self.alphas[column]

    @checked
    def interval(self, point: str, alpha: float) -> Interval:
        """Mean and 95% interval over samples.

        Raises:
            InputError: for a point or strength that was not run.
        """
        return mean_interval(as_rates(self.values[self._place(point, alpha)].numpy(), unit_of(self.metric)))

    @property
    def kinds(self) -> tuple[ControlKind, ...]:
        """The kinds of control that were run."""
        sizes: dict[ControlKind, int] = {
            "words": len(self.words),
            "covariance": len(self.covariance),
            "isotropic": len(self.controls),
        }
        return tuple(kind for kind, size in sizes.items() if size)

    @checked
    def control(self, point: str, alpha: float, *, control: ControlKind = "isotropic") -> Interval:
        """The same for a control: each sample counts with its mean over seeds; NaN where there is none of the kind."""
        return mean_interval(self._control(*self._place(point, alpha), control))

    @checked
    def beyond_control(self, point: str, alpha: float, *, control: ControlKind = "isotropic") -> Interval:
        """How far the vector goes beyond a control, sample by sample; NaN where there is none of the kind."""
        row, column = self._place(point, alpha)
        return paired_difference(self.values[row, column].numpy(), self._control(row, column, control))

    def _control(self, row: int, column: int, kind: ControlKind) -> np.ndarray:
        if kind not in self.kinds:
            return np.full(self.values.shape[-1], np.nan)
        if kind == "words":
            return self.words[row, column].numpy()
        return (self.covariance if kind == "covariance" else self.controls)[:, row, column].mean(0).numpy()

    @checked
    def verdict(self, point: str, alpha: float) -> str:
        """Whether the vector is more than word writing: `"more than the words"` only where its paired difference from the
        unembedding difference lies above zero.

        Returns:
            `"more than the words"`, `"no more than the words"`, or `"no words to compare with"`.
        """
        beyond = self.beyond_control(point, alpha, control="words")
        return word_verdict(None if np.isnan(beyond.mean) else beyond)

    def _place(self, point: str, alpha: float) -> tuple[int, int]:
        if point not in self.points or alpha not in self.alphas:
            raise InputError(
                f"The curve was run at {', '.join(self.points)} with alpha {', '.join(f'{a:g}' for a in self.alphas)}, not at "
                f"{point} with {alpha:g}."
            )
        return self.points.index(point), self.alphas.index(alpha)

    def to_frame(self) -> "pd.DataFrame":
        """A row per point and strength: means and intervals with the vector, with each control, and of their differences.

        Beside the words the p of the difference (sign flips, max-T over all rows) and the verdict.
        """
        import pandas as pd

        rows = []
        has_no_test = len(self.baseline) < 2 or "words" not in self.kinds
        p = None if has_no_test else sign_flip_p((self.values - self.words).double().numpy(), correction="max-t")
        for i, point in enumerate(self.points):
            for j, alpha in enumerate(self.alphas):
                row: dict[str, object] = {"point": point, "alpha": alpha, "without": float(self.baseline.mean())}
                intervals = {"vector": self.interval(point, alpha)}
                for kind in self.kinds:
                    intervals |= {
                        kind: self.control(point, alpha, control=kind),
                        f"beyond_{kind}": self.beyond_control(point, alpha, control=kind),
                    }
                for name, interval in intervals.items():
                    row |= {name: interval.mean, f"{name}_low": interval.low, f"{name}_high": interval.high}
                if "words" in self.kinds:
                    row |= {"p_words": float("nan") if p is None else p[i, j], "verdict": self.verdict(point, alpha)}
                rows.append(row)
        return pd.DataFrame(rows)

    @checked
    def plot(self, *, figure: "Figure | SubFigure | None" = None) -> "Figure":
        """The metric over strengths, a panel per point, controls beside it; heat maps for more than twelve points.

        Args:
            figure: a matplotlib figure or subfigure to draw into; a new one by default.
        """
        return drawn_by("steering.plot_dose")(self, figure=figure)
