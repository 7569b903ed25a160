"""`StudyTable`: what a stage of a published study gives here, beside the paper's numbers where these are known."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from mmlens.analysis.statistics.intervals import Interval
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
class StudyValue:
    """One number of a stage.

    Attributes:
        case: of what: a choice of neurons, a word, an intervention.
        quantity, unit: what was measured.
        value: the number; None where it cannot be had.
        low, high: its 95% interval, where there is one.
        count: of how many samples.
        control: the same of what it is compared with (random neurons, the run without the intervention).
        published: the paper's number, where it is known.
        note: what else is to be said.
    """

    case: str
    quantity: str
    value: float | None
    unit: str = ""
    low: float | None = None
    high: float | None = None
    count: int | None = None
    control: float | None = None
    published: float | None = None
    note: str = ""

    @classmethod
    @checked
    def of(
        cls,
        case: str,
        quantity: str,
        interval: Interval,
        unit: str = "",
        *,
        control: float | None = None,
        note: str = "",
    ) -> "StudyValue":
        """A mean with its interval."""
        mean, low, high = (_finite(value) for value in (interval.mean, interval.low, interval.high))
        return cls(case, quantity, mean, unit, low, high, interval.count, _finite(control), note=note)


def _finite(value: float | None) -> float | None:
    """A number as JSON has it: None where it is none."""
    return None if value is None or not math.isfinite(value) else float(value)


@checked_result
@dataclass(frozen=True, repr=False)
class StudyTable(Viewable, Saved):
    """The table of a stage, beside the paper's numbers where these are known.

    Attributes:
        paper, stage, title: which.
        rows: its numbers; none where the stage could not be answered.
        notes: what departs from the paper.
        reason: why the stage could not be answered; empty if it was.
        identity: model, data and settings, as hashes.
        forwards, samples: how many passes of batches through the whole model the call that finished it took, and how often it
            read a sample from its start.
    """

    paper: str
    stage: str
    title: str
    rows: tuple[StudyValue, ...]
    notes: tuple[str, ...] = ()
    reason: str = ""
    identity: Mapping[str, str] = field(default_factory=dict)
    forwards: int = 0
    samples: int = 0

    def __repr__(self) -> str:
        body = f"not answered: {self.reason}" if self.reason else self.to_frame().to_string(index=False)
        return f"{self.paper}, {self.stage}: {self.title}\n{body}"

    @checked
    def __getitem__(self, key: tuple[str, str]) -> StudyValue:
        """The row of a case and a quantity.

        Raises:
            InputError: if there is none; says which there are.
        """
        for row in self.rows:
            if (row.case, row.quantity) == key:
                return row
        there = ", ".join(f"{(row.case, row.quantity)}" for row in self.rows[:12]) or f"none: {self.reason}"
        raise InputError(f"The table of {self.stage} has no row {key}; it has {there}.")

    def to_frame(self) -> "pd.DataFrame":
        """One line per number; columns that no row needs are left out, but for `published`."""
        import pandas as pd

        frame = pd.DataFrame([asdict(row) for row in self.rows], columns=list(StudyValue.__dataclass_fields__))
        empty = [name for name in frame if name != "published" and (frame[name].isna() | (frame[name] == "")).all()]
        return frame.drop(columns=[] if frame.empty else empty)

    def to_markdown(self) -> str:
        """The table as a section of a page."""
        lines = [f"### {self.stage}: {self.title}", ""]
        if self.reason:
            return "\n".join([*lines, f"Not answered: {self.reason}", ""])
        frame = self.to_frame()
        lines += ["| " + " | ".join(frame.columns) + " |", "|" + "---|" * len(frame.columns)]
        lines += ["| " + " | ".join(map(_cell, row)) + " |" for row in frame.itertuples(index=False)]
        notes = [*self.notes, f"{self.forwards:,} forward passes; samples were read {self.samples:,} times."]
        return "\n".join([*lines, "", *(f"- {note}" for note in notes), ""])

    @checked
    def plot(self, *, figure: "Figure | SubFigure | None" = None) -> "Figure":
        """Every number with its interval, beside its control and the paper's.

        Args:
            figure: a matplotlib figure or subfigure to draw into; a new one by default.
        """
        return drawn_by("studies.plot_study")(self, figure=figure)


def _cell(value: object) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value).replace("|", "\\|")
