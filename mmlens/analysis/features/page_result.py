"""What a page shows of a feature."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from PIL import Image

from mmlens.analysis.heatmap import HeatMap
from mmlens.analysis.statistics.intervals import Interval
from mmlens.core.contract import checked, checked_result
from mmlens.core.pictures import drawn_by
from mmlens.core.saved import Saved
from mmlens.core.units import Unit
from mmlens.core.view import Viewable

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure, SubFigure


@checked_result
@dataclass(frozen=True)
class TopPicture:
    """A picture on which a feature is strong.

    Attributes:
        name: of its sample.
        picture: it.
        map: the feature's codes over it.
        control: those of the random feature.
        strongest: the largest code of its rows.
    """

    name: str
    picture: Image.Image = field(repr=False)
    map: HeatMap
    control: HeatMap
    strongest: float


@checked_result
@dataclass(frozen=True)
class TextContext:
    """A token at which a feature is strong, with those around it.

    Attributes:
        before, token, after: text.
        code: how strong.
    """

    before: str
    token: str
    after: str
    code: float


@checked_result
@dataclass(frozen=True)
class ClampedAnswers:
    """What the model says while a feature is held at a strength.

    Attributes:
        value: the code that it is held at, at every row.
        answers: by sample, with the feature.
        control: with the random feature at the same code.
        changed: the share of answers that the feature changes, with its 95% interval.
        control_changed: the same of the random feature.
        words: those that more answers have than before, with how many more.
    """

    value: float
    answers: tuple[str, ...]
    control: tuple[str, ...]
    changed: Interval
    control_changed: Interval
    words: tuple[tuple[str, int], ...]


@checked_result
@dataclass(frozen=True)
class FeaturePage(Viewable, Saved):
    """Everything that a page shows of a feature.

    Attributes:
        feature: it.
        control: the random feature beside it, which fires as often.
        density: by kind of row, the share in which it is not 0: `"image"`, `"text"`.
        control_density: the same of the random feature.
        image_share: the share of its codes' sum that lies on rows of pictures; NaN where it never fires.
        pictures: those on which it is strongest, best first.
        contexts: tokens of text at which it is strongest.
        words: what it writes, best first; empty where it does not write into the language model's stream.
        before: what the model answers to the samples that it is clamped on, those on which it is weakest.
        clamped: what it answers then, by strength.
        n_samples: samples that were looked at.
    """

    feature: Unit
    control: Unit
    density: dict[str, float]
    control_density: dict[str, float]
    image_share: float
    pictures: tuple[TopPicture, ...]
    contexts: tuple[TextContext, ...]
    words: tuple[str, ...]
    before: tuple[str, ...]
    clamped: tuple[ClampedAnswers, ...]
    n_samples: int

    def __repr__(self) -> str:
        rates = ", ".join(f"{share:.2%} of {kind} rows" for kind, share in self.density.items())
        says = f"; writes {', '.join(self.words[:5])}" if self.words else ""
        best = max(self.clamped, key=lambda clamped: clamped.changed.mean, default=None)
        does = ""
        if best is not None:
            new = ", ".join(f"{word} (+{count})" for word, count in best.words[:3])
            does = (
                f"; held at {best.value:.3g} it changes {best.changed.mean:.0%} of {len(self.before)} answers "
                f"(random {best.control_changed.mean:.0%})" + (f": {new}" if new else "")
            )
        return f"FeaturePage({self.feature}: fires in {rates}, over {self.n_samples} samples{says}{does})"

    @checked
    def plot(self, *, figure: "Figure | SubFigure | None" = None) -> "Figure":
        """How often it fires, and the pictures on which it is strongest with its codes, beside the random feature (grey).

        Args:
            figure: a matplotlib figure or subfigure to draw into; a new one by default.
        """
        return drawn_by("features.plot_page")(self, figure=figure)

    def to_frame(self) -> "pd.DataFrame":
        """A row per strength and sample: what is answered without, with the feature, and with the random one."""
        import pandas as pd

        rows = [
            {"value": clamped.value, "before": before, "clamped": answer, "random": other}
            for clamped in self.clamped
            for before, answer, other in zip(self.before, clamped.answers, clamped.control, strict=True)
        ]
        return pd.DataFrame(rows, columns=["value", "before", "clamped", "random"])
