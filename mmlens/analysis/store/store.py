"""`ActivationStore`: states of many samples, in memory or in a folder of files that are mapped, not read."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mmlens.analysis.store.collection_config import CollectionConfig
from mmlens.analysis.store.folder import StoreFile, read_shards
from mmlens.analysis.store.mapped import MappedStates
from mmlens.analysis.store.repair import StoreCheck, check_store, repair_store
from mmlens.analysis.store.shard import Record, Shard
from mmlens.analysis.store.states import States, import_datasets
from mmlens.core.answer_text import words_of
from mmlens.core.contract import checked
from mmlens.core.errors import InputError
from mmlens.core.kinds import PathLike
from mmlens.core.names import match_names
from mmlens.core.view import Display

if TYPE_CHECKING:
    import pandas as pd

#: Rows of a store that are in memory at a time where they are streamed.
_ROWS = 1024


@dataclass(frozen=True)
class ActivationStore(Display):
    """States of one or several points over a dataset, with the sample, word and caption of each.

    Attributes:
        question: what was collected, and from which model.
        shards: its pieces.
        path: its folder, absolute; None in memory.
        finished: whether the run that filled it came to its end.

    Example:
        >>> import mmlens as mm
        >>> at = "blocks.[2-4].hook_resid_post"
        >>> store = mm.collect(model, [scene], at=at, positions="last", progress=False)
        >>> store.points
        ('blocks.2.hook_resid_post', 'blocks.3.hook_resid_post', 'blocks.4.hook_resid_post')
        >>> store.at("blocks.3.hook_resid_post").values.shape
        torch.Size([1, 192])
    """

    question: CollectionConfig
    shards: tuple[Shard, ...]
    path: Path | None = None
    finished: bool = True

    @classmethod
    @checked
    def load(cls, path: PathLike) -> "ActivationStore":
        """Open the store in a folder; states are read when they are asked for.

        Raises:
            InputError: if there is no store.
        """
        path = Path(path).absolute()  # its files are opened later, wherever the process is then
        about = StoreFile.read(path)
        return cls(about.question, tuple(read_shards(path, about)), path, about.finished)

    @classmethod
    @checked
    def repaired(cls, path: PathLike) -> "ActivationStore":
        """The store in a folder without what is damaged there; the same `mm.collect` then makes only that anew.

        Raises:
            InputError: if there is no store, another run is writing to it, or nothing is left of it.
        """
        repair_store(Path(path))
        return cls.load(path)

    def repair(self) -> "ActivationStore":
        """The same as `repaired`, of this store's folder.

        Raises:
            InputError: for a store in memory, and as `repaired`.
        """
        return self.repaired(self._folder)

    def check(self) -> StoreCheck:
        """Read every byte of the store and compare it with its checksums; the result prints what is wrong, if anything.

        Raises:
            InputError: for a store in memory.
        """
        return check_store(self._folder)

    @property
    def _folder(self) -> Path:
        if self.path is None:
            raise InputError(
                "The store is in memory, and has no files; collect into a folder: collect(..., into=path)."
            )
        return self.path

    def __repr__(self) -> str:
        where = "in memory" if self.path is None else f"at {self.path}"
        state = "" if self.finished else ", unfinished"
        return (
            f"ActivationStore({len(self)} states of {self.n_samples} samples at {len(self.points)} points: "
            f"{self.question.rule}; {where}{state})"
        )

    def __len__(self) -> int:
        return sum(record.rows for record in self.records)

    @property
    def points(self) -> tuple[str, ...]:
        """The hook points, in execution order."""
        return self.question.points

    @cached_property
    def records(self) -> tuple[Record, ...]:
        """Every sample that was looked at, in the order of the dataset, also those that gave no state."""
        return tuple(sorted((r for shard in self.shards for r in shard.records), key=lambda record: record.number))

    @property
    def n_samples(self) -> int:
        """Number of samples that gave states."""
        return sum(record.rows > 0 for record in self.records)

    @checked
    def at(
        self,
        point: str | None = None,
        *,
        token: str | Sequence[str] | None = None,
        keys: str | Sequence[str] | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> States:
        """The states of one point, in memory, in the order of the dataset.

        Args:
            point: a hook point of the store; may be left out if it has one.
            token: only states of this word (or these).
            keys: only states of these samples.
            dtype: of the values.

        Raises:
            InputError: if the store holds no such point or states.
        """
        name = self._point(point)
        samples = None if keys is None else {keys} if isinstance(keys, str) else set(keys)
        if not any(record.rows for record in self.records if samples is None or record.key in samples):
            raise InputError(self._nothing(samples))
        states = MappedStates.of(self.shards, name, self.question, keys=samples, dtype=dtype)[:]
        return states if token is None else states.with_token(token)

    @checked
    def mapped(self, point: str | None = None) -> MappedStates:
        """The states of one point, left in their files until they are asked for; for more of them than memory holds.

        Args:
            point: as for `at`.

        Raises:
            InputError: if the store holds no such point or states.
        """
        name = self._point(point)
        if not len(self):
            raise InputError(self._nothing(None))
        return MappedStates.of(self.shards, name, self.question)

    def to_frame(self) -> "pd.DataFrame":
        """A row per sample that was looked at: number, key, rows, words, caption, truth and name."""
        import pandas as pd

        return pd.DataFrame([asdict(record) for record in self.records])

    def to_dataset(self) -> Any:
        """A Hugging Face `datasets.IterableDataset` of rows, a column per point; streams, so it may exceed memory.

        Raises:
            InputError: if `datasets` is not installed.
        """
        return import_datasets().IterableDataset.from_generator(self._rows)

    def _rows(self) -> Iterator[dict[str, Any]]:
        for pieces in zip(*(self.mapped(point).split(_ROWS) for point in self.points), strict=True):
            about = pieces[0]
            for row in range(len(about)):
                about_row = {"key": about.keys[row], "token": about.tokens[row], "step": about.steps[row]}
                about_row |= {"caption": about.captions[row], "name": about.names[row]}
                yield {**about_row, **{states.at: states.values[row].numpy() for states in pieces}}

    def _point(self, point: str | None) -> str:
        if point is None:
            if len(self.points) == 1:
                return self.points[0]
            raise InputError(f"The store holds {len(self.points)} points; name one: {', '.join(self.points)}.")
        names = match_names(point, self.points, kind="point of the store")
        if len(names) > 1:
            raise InputError(f"{point!r} names {len(names)} points of the store ({', '.join(names)}); name one.")
        return names[0]

    def _nothing(self, keys: set[str] | None) -> str:
        if keys is not None:
            return f"The store holds no states of the samples {', '.join(sorted(keys)[:4])}."
        words = Counter(word for record in self.records for word in set(words_of(record.caption)))
        common = ", ".join(word for word, _ in words.most_common(12))
        return f"None of the {len(self.records)} samples gave a state ({self.question.rule})." + (
            f" The captions' most frequent words: {common}." if common else ""
        )
