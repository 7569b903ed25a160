"""A trained dictionary, with how training went and what it gives back of pictures that it was not trained on."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmlens.analysis.features.dictionary import SparseDictionary
from mmlens.analysis.features.row_quality import RowQuality
from mmlens.analysis.features.saving import WeightType, save_sae
from mmlens.core.contract import checked, checked_result
from mmlens.core.kinds import PathLike
from mmlens.core.pictures import drawn_by
from mmlens.core.view import Viewable

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure, SubFigure


@checked_result
@dataclass(frozen=True)
class TrainingPoint:
    """How training stood after some steps: means over the steps since the point before.

    Attributes:
        step: steps that were done.
        rows: rows that were read.
        unexplained: the share of the variance that was not given back.
        auxiliary: the loss of dead features, 0 while there are none.
        dead: the share of features that were dead then.
    """

    step: int
    rows: int
    unexplained: float
    auxiliary: float
    dead: float


@checked_result
@dataclass(frozen=True)
class SAETraining(Viewable):
    """A dictionary that was trained.

    Attributes:
        sae: the dictionary.
        history: how it went, about a hundred points.
        held_out: how well rows of pictures that were held out are given back; None where none were.
        dead: the share of features that are 0 in all of these rows; where none were held out, that were dead at the end.
        n_rows: rows that it was trained on, each of them once an epoch.
        settings: what decided it.
    """

    sae: SparseDictionary
    history: tuple[TrainingPoint, ...]
    held_out: RowQuality | None
    dead: float
    n_rows: int
    settings: dict[str, Any]

    def __repr__(self) -> str:
        quality = self.held_out
        note = (
            "no pictures held out"
            if quality is None
            else f"on {quality.rows} rows of held-out pictures: explained variance {quality.explained_variance:.3f}, L0 "
            f"{quality.l0:.1f}"
        )
        return f"SAETraining({self.sae!r}; {note}; dead {self.dead:.1%}; {self.n_rows} rows, {self.history[-1].step} steps)"

    def to_frame(self) -> "pd.DataFrame":
        """A row per point of the history: step, rows, unexplained, auxiliary, dead."""
        import pandas as pd

        return pd.DataFrame([asdict(point) for point in self.history])

    @checked
    def plot(self, *, figure: "Figure | SubFigure | None" = None) -> "Figure":
        """What is not explained, and the share of dead features, over the steps.

        Args:
            figure: a matplotlib figure or subfigure to draw into; a new one by default.
        """
        return drawn_by("training.plot_training")(self, figure=figure)

    @checked
    def save(self, folder: PathLike, *, dtype: WeightType = "float32") -> Path:
        """Write the dictionary in SAELens's format, with how it was trained among its metadata.

        Args:
            folder: is made if it is not there.
            dtype: of the weights in the file.

        Raises:
            InputError: as `mm.features.save_sae`.
        """
        quality = None if self.held_out is None else asdict(self.held_out)
        about = {"training": self.settings, "held_out": quality, "dead": self.dead, "rows": self.n_rows}
        save_sae(self.sae, folder, metadata=about, dtype=dtype)
        return Path(folder)
