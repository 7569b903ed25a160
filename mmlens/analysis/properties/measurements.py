"""What was measured of neurons: values by noun and picture, and their means beside every baseline."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from mmlens.analysis.properties.quantities import (
    KINDS,
    ControlKind,
    Quantity,
    Value,
    choice_and_draw,
    control_of,
    is_control,
)
from mmlens.analysis.statistics.intervals import Interval, Standing, as_rates, draws_interval, mean_interval, standing
from mmlens.core.contract import checked, checked_result
from mmlens.core.errors import InputError
from mmlens.core.kinds import Count
from mmlens.core.pictures import drawn_by
from mmlens.core.saved import Saved
from mmlens.core.view import Viewable

if TYPE_CHECKING:
    from matplotlib.figure import Figure, SubFigure


@checked_result
@dataclass(frozen=True, eq=False)
class Measurements(Viewable, Saved):
    """A table of measured values, with the interval of each mean and of each difference to a baseline.

    Intervals are 95% intervals (see `statistics`) for which whole samples count as drawn, since the nouns of one picture belong
    together. A share that is 0 or 1 in every value is a rate. Values that could not be had are left out.

    Attributes:
        quantities: what was measured.
        values: one row per number: quantity, method, k, value, sample, noun, and the draw for random neurons (else 0).
        about: the settings it was measured with.
        skipped: what could not be measured, and why.

    Example:
        >>> from mmlens.analysis.properties.localisation import localisation
        >>> found = localisation(model, [scene], k=5, nouns=["person"], progress=False)
        >>> sorted(found.methods)
        ['centred blob', 'contribution', 'matched, like contribution', 'random, like contribution']
        >>> found.interval("IoU", "contribution").count > 0
        True
    """

    quantities: tuple[Quantity, ...]
    values: pd.DataFrame = field(repr=False)
    about: Mapping[str, Any] = field(default_factory=dict)
    skipped: Mapping[str, str] = field(default_factory=dict)

    @property
    def identity(self) -> Mapping[str, str]:
        """What decided the values: see `mmlens.models.identity.run_identity`; empty where it is not known."""
        return dict(self.about.get("identity", {}))

    @classmethod
    @checked
    def of(
        cls,
        quantities: Iterable[Quantity],
        values: Iterable[Value],
        about: Mapping[str, Any] | None = None,
        skipped: Mapping[str, str] | None = None,
    ) -> "Measurements":
        """Make one of single values; quantities without any are left out."""
        columns = ["quantity", "method", "k", "value", "sample", "noun"]
        table = pd.DataFrame([asdict(value) for value in values], columns=columns)
        names = list(table["method"])
        choices = {name: choice_and_draw(name) for name in names}
        table["method"] = [choices[name][0] for name in names]
        table["draw"] = [choices[name][1] for name in names]
        used = tuple(quantity for quantity in quantities if quantity.name in set(table["quantity"]))
        return cls(used, table, dict(about or {}), dict(skipped or {}))

    def __repr__(self) -> str:
        samples = self.values["sample"]
        return (
            f"Measurements({len(self.quantities)} quantities of {len(self.methods)} choices of neurons, "
            f"{samples[samples >= 0].nunique()} samples, {self.values['noun'].nunique()} nouns"
            + (f"; skipped: {', '.join(self.skipped)}" if self.skipped else "")
            + ")"
        )

    @property
    def methods(self) -> list[str]:
        """How neurons were chosen, baselines among them, in the order they came."""
        return list(dict.fromkeys(self.values["method"]))

    @property
    def ks(self) -> list[int]:
        """The numbers of neurons, ascending."""
        return sorted({int(k) for k in self.values["k"]})

    def _column(self, quantity: str, method: str, k: int | None) -> pd.Series:
        """Values by (sample, noun), means over draws."""
        rows = self._rows(quantity, method, k)
        return rows.groupby(["sample", "noun"], sort=False)["value"].mean()

    def _rows(self, quantity: str, method: str, k: int | None) -> pd.DataFrame:
        """The rows of one quantity, choice and number of neurons."""
        rows = self.values[(self.values["quantity"] == quantity) & (self.values["method"] == method)]
        if rows.empty:
            names = sorted(set(self.values["quantity"]))
            raise InputError(
                f"{quantity!r} was not measured for {method!r}; measured are {', '.join(names)} for {', '.join(self.methods)}."
            )
        rows = rows[rows["k"] == (max(rows["k"]) if k is None else k)]
        if rows.empty:
            raise InputError(f"{quantity!r} was not measured with k={k}; k was {', '.join(map(str, self.ks))}.")
        return rows

    @checked
    def interval(self, quantity: str, method: str, *, k: Count | None = None) -> Interval:
        """The mean of a quantity for one choice of neurons.

        Args:
            quantity: its name.
            method: which choice.
            k: how many neurons; the largest number measured by default.

        Raises:
            InputError: if that was not measured; says what was.
        """
        return _mean(self._column(quantity, method, k), self._unit(quantity))

    @checked
    def draws(self, quantity: str, method: str, *, control: ControlKind = "random", k: Count | None = None) -> Interval:
        """The mean over the draws of random neurons, and the interval in which 95% of the draws lie.

        Args:
            quantity: its name.
            method: the choice of neurons that the random ones are like, or their own name.
            control: `"random"` neurons of the same layers, or `"matched"` ones that are as active too.
            k: how many neurons; the largest number measured by default.

        Raises:
            InputError: if there was no control, or that was not measured; says what was.
        """
        rows = self._rows(quantity, method if is_control(method) else control_of(method, control), k)
        return draws_interval(_draw_means(rows))

    @checked
    def standing(
        self, quantity: str, method: str, *, control: ControlKind = "matched", k: Count | None = None
    ) -> Standing:
        """Where the mean of a quantity lies among those of the draws of a control, over the samples that both know.

        Args:
            quantity: its name.
            method: the choice of neurons.
            control: `"random"` neurons of the same layers, or `"matched"` ones that are as active too.
            k: how many neurons; the largest number measured by default.

        Raises:
            InputError: if there was no such control, or that was not measured; says what was.
        """
        return standing(
            float(self._column(quantity, method, k).mean()),
            _draw_means(self._rows(quantity, control_of(method, control), k)),
        )

    @checked
    def difference(
        self,
        quantity: str,
        method: str,
        *,
        minus: str | None = None,
        minus_quantity: str | None = None,
        k: Count | None = None,
    ) -> Interval:
        """The mean difference to a baseline, paired by sample and noun.

        Args:
            quantity: its name.
            method: which choice of neurons.
            minus: another choice (e.g. `"matched, like contribution"`); the same if another quantity is given, else random
                neurons of the same layers.
            minus_quantity: another quantity of the baseline; the same by default.
            k: how many neurons; the largest number measured by default.

        Raises:
            InputError: if one of them was not measured.
        """
        if minus is None:
            minus = control_of(method) if minus_quantity is None else method
        values = self._column(quantity, method, k)
        other = self._column(minus_quantity or quantity, minus, k)
        pairs = pd.concat([values.rename("own"), other.rename("other")], axis=1, join="inner")
        return _mean(pairs["own"] - pairs["other"])

    def _unit(self, quantity: str) -> str:
        return next((other.unit for other in self.quantities if other.name == quantity), "")

    @cached_property
    def _frame(self) -> pd.DataFrame:
        present = {(row.quantity, row.method, row.k) for row in self.values[["quantity", "method", "k"]].itertuples()}
        rows = []
        for quantity in self.quantities:
            for method in self.methods:
                for k in self.ks:
                    if (quantity.name, method, k) not in present:
                        continue
                    row: dict[str, Any] = {"quantity": quantity.name, "unit": quantity.unit, "method": method, "k": k}
                    interval = self.draws(quantity.name, method, k=k) if is_control(method) else None
                    row |= _cells("", interval or self.interval(quantity.name, method, k=k))
                    for kind in KINDS:
                        control = control_of(method, kind)
                        if (quantity.name, control, k) not in present:
                            continue
                        place = self.standing(quantity.name, method, control=kind, k=k)
                        row |= _cells(kind, place.draws)
                        row |= {f"{kind}_as_high": place.at_least, f"{kind}_draws": place.draws.count}
                        row |= _cells(f"minus_{kind}", self.difference(quantity.name, method, minus=control, k=k))
                    if (quantity.control, method, k) in present:
                        versus = self.difference(quantity.name, method, minus_quantity=quantity.control, k=k)
                        row |= {"control": quantity.control} | _cells("minus_control", versus)
                    if (quantity.name, quantity.baseline, k) in present and method != quantity.baseline:
                        versus = self.difference(quantity.name, method, minus=quantity.baseline, k=k)
                        row |= {"baseline": quantity.baseline} | _cells("minus_baseline", versus)
                    rows.append(row)
        return pd.DataFrame(rows)

    def to_frame(self) -> pd.DataFrame:
        """One row per quantity, choice of neurons and k: the mean with its interval (of random neurons that of the draws), and
        the paired differences.

        Columns `random...` are the mean over the draws of random neurons of the same layers and the interval in which 95% of the
        draws lie, `random_as_high` how many of the `random_draws` have a mean as high; columns `matched...` the same of neurons
        that are as active too. Columns `minus_random...` and `minus_matched...` compare with the draws' mean, `minus_control...`
        with the quantity's control (another object, another noun), `minus_baseline...` with another choice (a centred blob,
        the weights alone); all are paired by sample and noun.
        """
        return self._frame.copy()

    @checked
    def plot(self, *, k: Count | None = None, figure: "Figure | SubFigure | None" = None) -> "Figure":
        """Every quantity beside its baselines, with intervals; curves where several k were measured.

        Args:
            k: draw this number of neurons alone; by default all that were measured.
            figure: a matplotlib figure or subfigure to draw into; a new one by default.
        """
        return drawn_by("properties.plot_measurements")(self, k=k, figure=figure)


def _mean(values: pd.Series, unit: str = "") -> Interval:
    """The mean over nouns and pictures; whole pictures count as drawn, or nouns where these count as a whole."""
    values = values.dropna()
    samples = values.index.get_level_values("sample").to_numpy()
    nouns = pd.factorize(values.index.get_level_values("noun"))[0]
    return mean_interval(as_rates(values.to_numpy(), unit), groups=np.where(samples >= 0, samples, -1 - nouns))


def _draw_means(rows: pd.DataFrame) -> np.ndarray:
    """The mean of each draw."""
    return rows.groupby("draw")["value"].mean().to_numpy()


def _cells(name: str, interval: Interval) -> dict[str, float]:
    if not name:
        return {"mean": interval.mean, "low": interval.low, "high": interval.high, "count": interval.count}
    return {name: interval.mean, f"{name}_low": interval.low, f"{name}_high": interval.high}
