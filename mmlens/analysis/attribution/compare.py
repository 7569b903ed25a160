"""How well an approximate sweep agrees with the exact one."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from scipy.stats import pearsonr, spearmanr

from mmlens.analysis.attribution.attribute import attribute
from mmlens.analysis.attribution.method import AttributionChoice
from mmlens.analysis.metrics import MetricLike
from mmlens.analysis.patching.result import PatchSweep
from mmlens.analysis.patching.sweep import patch
from mmlens.analysis.patching.units import SweptUnits
from mmlens.core.contract import checked, checked_result
from mmlens.core.errors import InputError
from mmlens.core.kinds import Count, CountOrZero
from mmlens.core.pictures import drawn_by
from mmlens.core.rule_groups import Groups
from mmlens.core.saved import Saved
from mmlens.core.view import Viewable
from mmlens.hooks.nodes import Points
from mmlens.inputs.batch import BatchLike
from mmlens.models.hooked import HookedMultimodal

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure, SubFigure

#: Effects below this share of the largest have no sign to agree on.
_NEGLIGIBLE = 0.01


@checked_result
@dataclass(frozen=True)
class Agreement(Viewable, Saved):
    """Two sweeps of the same cells, compared by their mean effects over samples.

    Attributes:
        approximate, exact: the sweeps.
        pearson: correlation of effects; NaN if one of the sweeps is constant.
        spearman: correlation of their ranks.
        same_sign: share of the cells whose exact effect is at least 1% of the largest and that have the same sign in both.
        overlap: share of the k largest cells (by absolute effect) that both have.
        k: how many these are.
        n: number of cells.
        n_signed: number of cells that `same_sign` is a share of.
    """

    approximate: PatchSweep
    exact: PatchSweep
    pearson: float
    spearman: float
    same_sign: float
    overlap: float
    k: Count
    n: Count
    n_signed: CountOrZero

    def __repr__(self) -> str:
        return (
            f"Agreement({self.approximate.method} with {self.exact.method}, {self.n} cells: Pearson {self.pearson:.3f}, "
            f"Spearman {self.spearman:.3f}, same sign {self.same_sign:.3f} of {self.n_signed}, top {self.k} overlap "
            f"{self.overlap:.2f})"
        )

    @checked
    def plot(self, *, figure: "Figure | SubFigure | None" = None) -> "Figure":
        """The estimate of every cell against its exact effect; on the diagonal they are the same.

        Args:
            figure: a matplotlib figure or subfigure to draw into; a new one by default.
        """
        return drawn_by("agreement.plot_agreement")(self, figure=figure)

    def to_frame(self) -> "pd.DataFrame":
        """One row per cell: point, positions, and its mean effect over samples by either sweep."""
        frame = self.exact.to_frame()[["point", "positions", "effect"]]
        return frame.rename(columns={"effect": "exact"}).assign(
            approximate=self.approximate.to_frame()["effect"].to_numpy()
        )


@checked
def agreement(approximate: PatchSweep, exact: PatchSweep, *, k: Count = 10) -> Agreement:
    """Compare two sweeps of the same cells.

    Args:
        approximate: from `mm.attribute`.
        exact: from `mm.patch`.
        k: how many of the largest cells are compared; all, if there are fewer.

    Raises:
        InputError: if they are not sweeps of the same cells.
    """
    for setting in ("points", "groups", "direction", "metric"):
        first, second = getattr(approximate, setting), getattr(exact, setting)
        if first != second:
            raise InputError(f"The sweeps differ in {setting}: {first} and {second}; compare sweeps of the same cells.")
    approximate_effect, exact_effect = (sweep.effect.mean(-1).flatten().double() for sweep in (approximate, exact))
    n = len(approximate_effect)
    k = min(k, n)
    has_spread = n > 1 and bool(approximate_effect.std() > 0) and bool(exact_effect.std() > 0)
    has_sign = exact_effect.abs() >= _NEGLIGIBLE * exact_effect.abs().max()
    has_sign &= exact_effect != 0
    top = [set(effects.abs().topk(k).indices.tolist()) for effects in (approximate_effect, exact_effect)]
    return Agreement(
        approximate=approximate,
        exact=exact,
        pearson=float(pearsonr(approximate_effect.numpy(), exact_effect.numpy()).statistic)
        if has_spread
        else float("nan"),
        spearman=float(spearmanr(approximate_effect.numpy(), exact_effect.numpy()).statistic)
        if has_spread
        else float("nan"),
        same_sign=float((approximate_effect.sign() == exact_effect.sign())[has_sign].float().mean())
        if has_sign.any()
        else float("nan"),
        overlap=len(top[0] & top[1]) / k,
        k=k,
        n=n,
        n_signed=int(has_sign.sum()),
    )


@checked
@torch.no_grad()
def compare_attribution(
    model: HookedMultimodal,
    clean: BatchLike,
    corrupted: BatchLike,
    *,
    metric: MetricLike,
    at: Points | None = None,
    units: SweptUnits = None,
    positions: Groups | None = None,
    direction: Literal["denoise", "noise"] = "denoise",
    method: AttributionChoice = "atp",
    k: Count = 10,
    progress: bool = True,
) -> Agreement:
    """Run a sweep exactly and to first order, and say how well the two agree: what attribution is worth on this model.

    Args:
        model, clean, corrupted, metric, at, units, positions, direction, progress: as for `mm.patch`.
        method: as for `mm.attribute`.
        k: how many of the largest cells are compared.

    Returns:
        Correlations, agreement of signs, overlap of the largest cells, and both sweeps.

    Raises:
        InputError: as for `mm.patch`.
    """
    shared: dict[str, Any] = {
        "metric": metric, "at": at, "units": units, "positions": positions, "direction": direction, "progress": progress,
    }  # fmt: skip
    estimate = attribute(model, clean, corrupted, method=method, **shared)
    exact = patch(model, clean, corrupted, **shared)
    return agreement(estimate, exact, k=k)
