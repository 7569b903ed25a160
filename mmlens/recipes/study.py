"""A study under way: its model, samples and settings, its folder, and its stages one after another."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from mmlens.analysis.properties.scorers import Scorer
from mmlens.analysis.scores.safety import Judge
from mmlens.analysis.study_table import StudyTable, StudyValue
from mmlens.core.errors import InputError, MMLensError
from mmlens.core.files import made_folder, whole_file
from mmlens.core.results import JsonKind
from mmlens.models.hooked import HookedMultimodal
from mmlens.recipes.published import PUBLISHED
from mmlens.recipes.sources import ABSENT, Samples, Sources
from mmlens.recipes.stage import Outcome, Stage, UnanswerableError

Result = TypeVar("Result")
_FILE = JsonKind("mmlens.recipes.Study", 1, "study", {"identity": dict[str, str]})


@dataclass(frozen=True)
class Study:
    """What every stage of a paper works with.

    Attributes:
        paper: its name.
        model: the hooked model.
        sources: gives samples.
        settings: the paper's, or ours.
        folder: of the study; each stage has one in it.
        identity: model, data and settings, as hashes.
        limit: of the samples of every set.
        seed: of what is drawn.
        scorers: from local checkpoints, for how well words fit pictures and captions.
        judge: whether an answer does what a request asks.
        progress: show progress bars.
    """

    paper: str
    model: HookedMultimodal
    sources: Sources
    settings: Any
    folder: Path
    identity: dict[str, str]
    limit: int | None = None
    seed: int = 0
    scorers: tuple[Scorer, ...] = ()
    judge: Judge | None = None
    progress: bool = True
    _kept: dict[str, Any] = field(default_factory=dict, repr=False)

    def begin(self) -> None:
        """Note what the folder is of; data that were not there when it was begun may come later.

        Raises:
            InputError: if it is of another model, other data or settings.
        """
        file = self.folder / "study.json"
        made_folder(self.folder)
        if not file.exists():
            _FILE.write(file, {"identity": self.identity})
            return
        known = _FILE.read(file)["identity"]
        changes = [name for name in {**self.identity, **known} if self.identity.get(name) != known.get(name)]
        different = [name for name in changes if known.get(name) != ABSENT]
        if different:
            raise InputError(
                f"{self.folder} holds a study that differs in {', '.join(different)}. Use another folder, or delete it."
            )
        if changes:
            _FILE.write(file, {"identity": self.identity})

    def count(self, n: int) -> int:
        """How many samples, of so many that the settings ask for."""
        return n if self.limit is None else min(n, self.limit)

    def shared(self, name: str) -> Path:
        """The path of something that several stages read."""
        folder = self.folder / "shared"
        folder.mkdir(exist_ok=True)
        return folder / name

    def once(self, name: str, make: Callable[[], Result]) -> Result:
        """Something that several stages read, made when the first of them asks; what cannot be made is not tried again."""
        if name not in self._kept:
            try:
                self._kept[name] = make()
            except MMLensError as error:
                self._kept[name] = UnanswerableError(str(error))
        if isinstance(self._kept[name], UnanswerableError):
            raise self._kept[name]
        return self._kept[name]

    def captions(self, n: int) -> Samples:
        """Pictures with true captions, with the settings' prompt."""
        return self.once(f"captions {n}", lambda: self.sources.captions(self.count(n), self.settings.prompt, self.seed))

    def table(self, stage: Stage) -> StudyTable:
        """The table of a stage: read, if it was answered, else measured (once more, as its reason may be gone) and written."""
        folder = self.folder / stage.name
        file = folder / "table.json"
        if file.exists() and not (table := StudyTable.load(file)).reason:
            return table
        folder.mkdir(exist_ok=True)
        with counted(self.model) as count:
            try:
                outcome, reason = stage.run(self), ""
            except MMLensError as error:
                outcome, reason = Outcome(()), " ".join(str(error).split())
        table = StudyTable(
            self.paper, stage.name, stage.title, self._beside(stage, outcome.rows), tuple(outcome.notes), reason, self.identity,
            count.forwards, count.samples,
        )  # fmt: skip
        for name, result in outcome.results.items():
            result.save(str(folder / name))
        figures = {"table": table.plot(), **outcome.figures} if table.rows else {}
        for name, figure in figures.items():
            with whole_file(folder / f"{name}.png") as path:
                figure.savefig(path, format="png", dpi=110)
        with whole_file(folder / "table.csv") as path:
            table.to_frame().to_csv(path, index=False)
        table.save(file)  # last: the stage is finished
        return table

    def _beside(self, stage: Stage, rows: Sequence[StudyValue]) -> tuple[StudyValue, ...]:
        """The rows with the paper's numbers, and those of the paper that nothing here stands beside."""
        known = dict(PUBLISHED.get(self.paper, {}).get(stage.name, {}))
        beside = [replace(row, published=known.pop((row.case, row.quantity), None)) for row in rows]
        return (*beside, *(StudyValue(*key, None, published=value) for key, value in known.items() if rows))


@dataclass
class Count:
    """How often a model ran: batches, how often a sample was read from its start, and seconds of the processor."""

    forwards: int = 0
    samples: int = 0
    seconds: float = 0.0


@contextmanager
def counted(model: HookedMultimodal) -> Iterator[Count]:
    """Count the forward passes of a model inside the `with`, and its processor time."""
    count = Count()

    def add(module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        count.forwards += 1
        tensors = (named.get("input_ids"), named.get("inputs_embeds"), *arguments)
        shape = next((value.shape for value in tensors if value is not None), (1, 2))
        count.samples += shape[0] if shape[1] > 1 else 0  # a cached step reads one token

    handle = model.base.register_forward_pre_hook(add, with_kwargs=True)
    start = time.process_time()
    try:
        yield count
    finally:
        count.seconds = time.process_time() - start
        handle.remove()


def layer_of(published: int, model: HookedMultimodal, *, of: int = 32) -> int:
    """The layer of a model that lies as deep as one of the paper's model."""
    return round(published * (model.cfg.n_layers - 1) / (of - 1))


def point_of(published: int, model: HookedMultimodal) -> str:
    """The residual stream behind that layer."""
    return f"blocks.{layer_of(published, model)}.hook_resid_post"
