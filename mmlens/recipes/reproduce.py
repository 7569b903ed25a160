"""`reproduce`: a published study in one resumable run, stage by stage."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from mmlens import lab
from mmlens.analysis.properties.scorers import Scorer
from mmlens.analysis.scores.safety import Judge
from mmlens.analysis.study_table import StudyTable
from mmlens.core.contract import checked, checked_result
from mmlens.core.errors import InputError
from mmlens.core.files import whole_file
from mmlens.core.kinds import Count, PathLike, Seed, Several, Text
from mmlens.core.names import nearest_hint
from mmlens.core.pictures import drawn_by
from mmlens.core.view import Viewable
from mmlens.models.hooked import HookedMultimodal, WritingModel
from mmlens.models.identity import run_identity
from mmlens.recipes.khayatan import STAGES as _KHAYATAN
from mmlens.recipes.khayatan.settings import KhayatanSettings
from mmlens.recipes.pan import STAGES as _PAN
from mmlens.recipes.pan_settings import PanSettings
from mmlens.recipes.parekh import STAGES as _PAREKH
from mmlens.recipes.parekh import ParekhSettings
from mmlens.recipes.sources import FileSources, LabSources, Sources
from mmlens.recipes.stage import Stage
from mmlens.recipes.study import Study

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure, SubFigure

#: The studies, by their first author.
Paper = Literal["pan", "parekh", "khayatan"]
Settings: TypeAlias = PanSettings | ParekhSettings | KhayatanSettings
_STAGES: dict[str, tuple[Stage, ...]] = {"pan": _PAN, "parekh": _PAREKH, "khayatan": _KHAYATAN}
_SETTINGS: dict[str, Any] = {"pan": PanSettings, "parekh": ParekhSettings, "khayatan": KhayatanSettings}


@checked_result
@dataclass(frozen=True, repr=False)
class Reproduction(Viewable):
    """The tables of a study.

    Attributes:
        paper: which.
        folder: where its files are; `report.md` has all tables.
        tables: one per stage.
    """

    paper: str
    folder: Path
    tables: tuple[StudyTable, ...] = field(repr=False)

    def __repr__(self) -> str:
        unanswered = [table.stage for table in self.tables if table.reason]
        rest = f"; not answered: {', '.join(unanswered)}" if unanswered else ""
        return f"Reproduction({self.paper}, {len(self.tables)} stages in {self.folder}{rest})"

    def __getitem__(self, stage: str) -> StudyTable:
        """The table of a stage.

        Raises:
            InputError: if it was not run.
        """
        for table in self.tables:
            if table.stage == stage:
                return table
        raise InputError(
            f"There is no stage {stage!r} here; there are {', '.join(table.stage for table in self.tables)}."
        )

    @checked
    def plot(self, *, figure: "Figure | SubFigure | None" = None) -> "Figure":
        """The first four tables that were answered.

        Args:
            figure: a matplotlib figure or subfigure to draw into; a new one by default.
        """
        tables = [table for table in self.tables if not table.reason][:4] or self.tables[:1]
        return drawn_by("studies.plot_studies")(tables, figure=figure)

    def to_frame(self) -> "pd.DataFrame":
        """All numbers, with the stage that they are of."""
        import pandas as pd

        return pd.concat([table.to_frame().assign(stage=table.stage) for table in self.tables], ignore_index=True)


@checked
def reproduce(
    paper: Paper,
    *,
    into: PathLike,
    model: WritingModel | None = None,
    data: PathLike | None = None,
    only: Several[Text] | None = None,
    limit: Count | None = None,
    published: bool = False,
    settings: Settings | None = None,
    scorers: Sequence[Scorer] = (),
    judge: Judge | None = None,
    seed: Seed = 0,
    progress: bool = True,
) -> Reproduction:
    """Run a published study: every table and figure of it as a stage, beside the paper's numbers where these are known.

    `"pan"`: multi-modal neurons (words, invariance, specificity, causal effect, layers, cost, edits). `"parekh"`: concepts of a
    word's states (methods, grounding, overlap, ablations). `"khayatan"`: shifts of concepts under fine-tunes, and steering
    (answers, types, style, gender, safety, sweeps). What the model or the data cannot answer is said in the stage's table.

    Each stage has a folder: `table.json`, `table.csv`, `table.png` and whole results, which carry their identity. A run that was
    stopped is gone on with by the same call, also within a stage; with another model, data or settings it is refused.

    Args:
        paper: which study.
        into: the study's files go into the folder of its name in there.
        model: the hooked model; the lab's captioner by default.
        data: a folder with the files of published data sets, under the names they are published by: COCO captions or Karpathy's
            split or SBU, VQAv2, Visual Genome's regions, MM-SafetyBench; the lab's scenes by default.
        only: names of stages; all by default.
        limit: of the samples of every set, and the steps and batches of fine-tunes.
        published: with the paper's own settings (prompts but for the lab's scenes, layers, strengths, numbers of samples); by
            default smaller ones, and neurons by their exact multiplier.
        settings: of the study, instead of either.
        scorers: `mm.scorers.ClipScore(path)`, `BertScore(path)`: how well words fit pictures and captions.
        judge: whether an answer does what a request asks; by default whether it has no phrase of a refusal.
        seed: of samples and random controls.
        progress: show progress bars.

    Returns:
        The tables.

    Raises:
        InputError: for stages that the study does not have, and a folder that holds a study of another model, other data or
            settings.

    Example:
        >>> import mmlens as mm, tempfile
        >>> study = mm.recipes.reproduce("pan", into=tempfile.mkdtemp(), model=model, only=["cost"], limit=2, progress=False)
        >>> study["cost"]["theirs", "forward passes"].value > 1
        True

    Source: Pan et al., ACL 2024 (https://arxiv.org/abs/2311.07470); Parekh et al., NeurIPS 2024
    (https://arxiv.org/abs/2406.08074); Khayatan et al., ICCV 2025 (https://arxiv.org/abs/2501.03012).
    """
    stages = _chosen(paper, only)
    hooked: HookedMultimodal = lab.load() if model is None else model
    sources: Sources = LabSources() if data is None else FileSources(data, progress=progress)
    kind = _SETTINGS[paper]
    if settings is not None and (published or not isinstance(settings, kind)):
        raise InputError(f"settings={settings!r} must be {kind.__name__} for {paper!r}, without published=True.")
    chosen = settings or (kind.published() if published else kind())
    if settings is None and data is None:
        chosen = replace(chosen, prompt=None)  # scenes bring theirs, and the lab model knows no other words
    identity = run_identity(hooked, settings=chosen, limit=limit, seed=seed, scorers=list(scorers), judge=judge)
    identity |= sources.identity
    folder = Path(into) / paper
    study = Study(paper, hooked, sources, chosen, folder, identity, limit, seed, tuple(scorers), judge, progress)
    study.begin()
    tables = []
    for stage in stages:
        tables.append(study.table(stage))
        _report(paper, folder, tables)
    return Reproduction(paper, folder, tuple(tables))


def _chosen(paper: str, only: Sequence[str] | None) -> list[Stage]:
    names = [stage.name for stage in _STAGES[paper]]
    unknown = [name for name in only or () if name not in names]
    if unknown:
        raise InputError(
            f"The study {paper!r} has no stage {unknown[0]!r}.{nearest_hint(unknown[0], names)} It has "
            f"{', '.join(names)}."
        )
    return [stage for stage in _STAGES[paper] if only is None or stage.name in only]


def _report(paper: str, folder: Path, tables: Sequence[StudyTable]) -> None:
    """All tables on one page, those of earlier calls among them."""
    fresh = {table.stage: table for table in tables}
    pages = []
    for stage in _STAGES[paper]:
        file = folder / stage.name / "table.json"
        if stage.name in fresh or file.exists():
            pages.append((fresh.get(stage.name) or StudyTable.load(file)).to_markdown())
    with whole_file(folder / "report.md") as path:
        path.write_text("\n".join([f"# {paper}", "", *pages]), encoding="utf-8")
