"""What a sweep found: values with their statistics, as a frame, as a picture, in a file."""

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float

from mmlens.analysis.metrics import unit_of
from mmlens.analysis.statistics.intervals import mean_bounds
from mmlens.analysis.statistics.significance import Correction, sign_flip_p
from mmlens.core.contract import checked, checked_result
from mmlens.core.errors import InputError
from mmlens.core.identity import joint_identity
from mmlens.core.kinds import Count, Level, NonNegative, Seed
from mmlens.core.packing import UNSAVED
from mmlens.core.pictures import drawn_by
from mmlens.core.saved import Saved
from mmlens.core.unit_sets import Units
from mmlens.core.view import Viewable
from mmlens.execution.plan import Plan
from mmlens.inputs.images import Picture

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure, SubFigure

_TENSORS = ("values", "clean", "corrupted")


@dataclass(frozen=True)
class PatchEffect:
    """One cell of a sweep, averaged over samples.

    Attributes:
        point: hook name, with the unit behind it where units were swept.
        positions: name of the group.
        effect: what the patch changed, in the metric's unit.
        share: the effect as a share of the gap between the runs: recovered when denoising, else lost.
        moved: `"recovered"` or `"lost"`.
        unit: of the effect; empty where the metric names none.
        units: the neurons and heads that were patched, where units were swept.
    """

    point: str
    positions: str
    effect: float
    share: float
    moved: str
    unit: str = ""
    units: Units = field(default_factory=Units)

    def __str__(self) -> str:
        share = "no gap" if np.isnan(self.share) else f"{self.share:.0%} of the gap {self.moved}"
        return f"{self.point} at {self.positions}: effect {self.effect:+.3f}{self.unit and ' ' + self.unit} ({share})"


@checked_result
@dataclass(frozen=True)
class PatchSweep(Viewable, Saved):
    """Values of a metric after each patch.

    Attributes:
        values: `[point group sample]`, in the metric's unit.
        points: hook names; where units were swept, one entry per unit: `blocks.3.attn.hook_z[h2]`.
        groups: names of the groups of positions.
        clean: the metric of the clean run, `[sample]`.
        corrupted: the metric of the corrupted run, `[sample]`.
        direction: `"denoise"`, `"noise"`, or `"knock-out"` (attention cut in the clean run).
        metric: its name and unit.
        method: `"exact"`, or the name of the approximation.
        row_units: per row of points the neurons and heads that were patched; none where points were patched whole, and where
            grouped heads share what was patched.
        boxes: per group, the pixel boxes (left, top, right, bottom) of its rows in the first sample's picture; None where
            rows have no place.
        plan: what the runs cost; None in an approximation, or read from a file.
        identity: what decided the values: see `mmlens.models.identity.run_identity`; empty where it is not known.
    """

    values: Float[torch.Tensor, "point group sample"]
    points: list[str]
    groups: list[str]
    clean: Float[torch.Tensor, "sample"]
    corrupted: Float[torch.Tensor, "sample"]
    direction: str
    metric: str
    method: str = "exact"
    row_units: tuple[Units, ...] = field(default=(), repr=False)
    boxes: tuple[torch.Tensor | None, ...] = field(default=(), repr=False, compare=False)
    plan: Plan | None = field(default=None, repr=False, compare=False, metadata=UNSAVED)
    identity: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)

    def __repr__(self) -> str:
        gap = float((self.clean - self.corrupted).mean())
        how = "" if self.method == "exact" else f", {self.method} (approximate)"
        return (
            f"PatchSweep({self.direction}{how}, {len(self.points)} points x {len(self.groups)} groups x {len(self.clean)} "
            f"samples; {self.metric}; clean - corrupted {gap:.3f})"
        )

    @property
    def effect(self) -> Float[torch.Tensor, "point group sample"]:
        """What each patch changed, in the metric's unit: against the corrupted run when denoising, else the clean."""
        return self.values - (self.corrupted if self.direction == "denoise" else self.clean)

    @property
    def moved(self) -> str:
        """What a patch does to the gap that it moves a share of: `"recovered"` when denoising, else `"lost"`."""
        return "recovered" if self.direction == "denoise" else "lost"

    @property
    def mean_share(self) -> Float[torch.Tensor, "point group"]:
        """The mean effect as a share of the mean gap: recovered when denoising, else lost; NaN without a gap."""
        return self.mean_recovered if self.direction == "denoise" else 1 - self.mean_recovered

    @property
    def recovered(self) -> Float[torch.Tensor, "point group sample"]:
        """The share of the gap from corrupted (0) to clean (1) that stands after each patch; NaN without a gap."""
        gap = self.clean - self.corrupted
        return (self.values - self.corrupted) / torch.where(gap == 0, torch.nan, gap)

    @property
    def mean_recovered(self) -> Float[torch.Tensor, "point group"]:
        """The share of the mean gap that stands after each patch: a ratio of means, so that no small gap weighs most."""
        gap = (self.clean - self.corrupted).mean()
        return (self.values - self.corrupted).mean(-1) / (gap if gap != 0 else torch.nan)

    @checked
    def interval(self, *, level: Level = 0.95, seed: Seed = 0) -> Float[torch.Tensor, "point group bound"]:
        """Interval of each mean effect over samples (see `statistics`): lower and upper bound, in the metric's unit.

        NaN for a single sample, and where a value is not finite.

        Args:
            level: of the interval, 0 to 1.
            seed: of the resampling.
        """
        return torch.from_numpy(mean_bounds(self.effect.double().cpu().numpy(), level=level, seed=seed))

    @checked
    def p_values(
        self, *, beyond: NonNegative = 0.0, correction: Correction | None = "max-t", seed: Seed = 0
    ) -> Float[torch.Tensor, "point group"]:
        """Two-sided p of each mean effect: a sign-flip permutation test over samples.

        Almost everything in a network has *some* effect, the same in every sample and so significant, if it is a thousandth
        of a logit. `beyond` asks instead whether an effect is larger than what would matter.

        Args:
            beyond: the smallest effect that matters, in the metric's unit: the test is of a mean that lies farther from zero.
            correction: for the number of cells; see `sign_flip_p`. With n samples no p lies below `2 / 2**n`.
            seed: of the random signs.

        Returns:
            One p per cell; NaN where a value is not finite.

        Raises:
            InputError: for fewer than two samples, a negative `beyond`, or an unknown correction.
        """
        effect = self.effect.double().cpu().numpy()
        return torch.from_numpy(sign_flip_p(effect, beyond=beyond, correction=correction, seed=seed))

    @property
    def units(self) -> Units:
        """The neurons and heads that were patched, in the order of the rows; none where points were patched whole."""
        return Units(unit for units in self.row_units for unit in units)

    @checked
    def top(self, k: Count = 10) -> Units:
        """The units of the k rows with the largest mean effect, of either sign, at any group.

        Raises:
            InputError: if no units were swept.
        """
        if not self.units:
            raise InputError("This sweep patched points, not units; .cells(k) has the points with the largest effects.")
        size = self.effect.mean(-1).abs().nan_to_num(-1).amax(1)
        order = [row for row in size.argsort(descending=True).tolist() if self.row_units[row]]
        return Units(unit for row in order[:k] for unit in self.row_units[row])

    @checked
    def cells(self, k: Count = 10) -> list[PatchEffect]:
        """The k cells with the largest mean effect, of either sign."""
        effect, share = self.effect.mean(-1), self.mean_share
        order = effect.abs().nan_to_num(-1).flatten().argsort(descending=True)[:k]
        cells = [divmod(int(number), len(self.groups)) for number in order]
        return [
            PatchEffect(
                self.points[i],
                self.groups[j],
                float(effect[i, j]),
                float(share[i, j]),
                self.moved,
                unit_of(self.metric),
                self.row_units[i] if self.row_units else Units(),
            )
            for i, j in cells
        ]

    @checked
    def to_frame(self, *, statistics: bool = False) -> "pd.DataFrame":
        """One row per point and group: means over samples of value and effect, in the metric's unit, and the share of the
        mean gap that is `recovered` (denoising) or `lost`.

        Args:
            statistics: add the effect's 95% interval (`effect_low`, `effect_high`) and its corrected p.
        """
        import pandas as pd

        shape = (len(self.points), len(self.groups))
        columns = {
            "point": np.repeat(self.points, shape[1]),
            "positions": np.tile(self.groups, shape[0]),
            "value": self.values.mean(-1).flatten().tolist(),
            "effect": self.effect.mean(-1).flatten().tolist(),
            self.moved: self.mean_share.flatten().tolist(),
        }
        if statistics:
            low, high = self.interval().unbind(-1)
            columns |= {"effect_low": low.flatten().tolist(), "effect_high": high.flatten().tolist()}
            columns["p"] = self.p_values().flatten().tolist()
        return pd.DataFrame(columns)

    @checked
    def plot(
        self,
        image: Picture | None = None,
        *,
        points: Sequence[str] | None = None,
        figure: "Figure | SubFigure | None" = None,
    ) -> "Figure":
        """Draw the sweep: layers by groups or heads; or, given the picture, each point's effects over it.

        Args:
            image: the first sample's picture; needs groups that have a place in it.
            points: which points to draw; all by default.
            figure: a matplotlib figure or subfigure to draw into; a new one by default.
        """
        if image is None:
            return drawn_by("sweeps.plot_sweep")(self, points=points, figure=figure)
        return drawn_by("sweeps.plot_over_picture")(self, image, points=points, figure=figure)

    @classmethod
    @checked
    def joined(cls, sweeps: "Sequence[PatchSweep]") -> "PatchSweep":
        """One sweep of the samples of several, for datasets that are swept batch by batch.

        Args:
            sweeps: of the same question: points, groups, direction, metric and method.

        Raises:
            InputError: if there are none, or they answer different questions.
        """
        if not sweeps:
            raise InputError("There are no sweeps to join.")
        first = sweeps[0]
        for name in ("points", "groups", "direction", "metric", "method"):
            other = next((sweep for sweep in sweeps if getattr(sweep, name) != getattr(first, name)), None)
            if other is not None:
                raise InputError(
                    f"Sweeps with different {name} cannot be joined: {getattr(first, name)!r:.80} and "
                    f"{getattr(other, name)!r:.80}."
                )
        values, clean, corrupted = (torch.cat([getattr(sweep, name) for sweep in sweeps], dim=-1) for name in _TENSORS)
        identity = joint_identity([sweep.identity for sweep in sweeps])
        return replace(first, values=values, clean=clean, corrupted=corrupted, plan=None, identity=identity)


def summed(sweeps: Sequence[PatchSweep]) -> PatchSweep:
    """The sweep of a metric that is the sum of several, which were swept one by one."""
    first = sweeps[0]
    if len(sweeps) == 1:
        return first
    values, clean, corrupted = (torch.stack([getattr(s, name) for s in sweeps]).sum(0) for name in _TENSORS)
    plans = [sweep.plan for sweep in sweeps if sweep.plan is not None]
    plan = reduce(operator.add, plans) if plans else None
    return replace(first, values=values, clean=clean, corrupted=corrupted, plan=plan)
