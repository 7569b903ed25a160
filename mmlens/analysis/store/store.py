"""`ActivationStore`: states of many samples, in memory or in a folder of files that are mapped, not read."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mmlens.analysis.store.collection_config import CollectionConfig
from mmlens.analysis.store.folder import is_finished, read_question, read_shards
from mmlens.analysis.store.mapped import MappedStates
from mmlens.analysis.store.shard import Record, Shard, predicted_words
from mmlens.analysis.store.states import States, import_datasets
from mmlens.core.errors import InputError
from mmlens.core.names import match_names

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class ActivationStore:
    """States of one or several points over a dataset, with the sample, word and caption of each.

    Attributes:
        question: what was collected, and from which model.
        shards: its pieces.
        path: its folder; None in memory.
        finished: whether the run that filled it came to its end.

    Example:
        >>> import mmlens as mm
        >>> at = "blocks.[2-4].hook_resid_post"
        >>> store = mm.collect(model, [scene], at=at, positions="last", generate=False, progress=False)
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
    def load(cls, path: str | Path) -> "ActivationStore":
        """Open the store in a folder; states are read when they are asked for.

        Raises:
            InputError: if there is no store.
        """
        path = Path(path)
        question = read_question(path)
        return cls(question, tuple(read_shards(path)), path, is_finished(path))

    def __repr__(self) -> str:
        where = "in memory" if self.path is None else f"at {self.path}"
        state = "" if self.finished else ", unfinished"
        return (
            f"ActivationStore({len(self)} states of {self.n_samples} samples at {len(self.points)} points: "
            f"{self.question.rule}; {where}{state})"
        )

    def __len__(self) -> int:
        return sum(self._lengths)

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

    @cached_property
    def _lengths(self) -> list[int]:
        return [sum(record.rows for record in shard.records) for shard in self.shards]

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
        wanted = None if keys is None else {keys} if isinstance(keys, str) else set(keys)
        pieces = [_states(shard, name, self.question, dtype, wanted) for shard in self.shards]
        if not sum(len(states) for states, _ in pieces):
            raise InputError(self._nothing(wanted))
        numbers = torch.cat([numbers for _, numbers in pieces])
        joined = _joined([states for states, _ in pieces])
        if (numbers.diff() < 0).any():  # several processes took blocks in turn
            joined = joined[numbers.argsort(stable=True)]
        return joined if token is None else joined.with_token(token)

    def chunks(self, point: str | None = None, *, dtype: torch.dtype = torch.float32) -> Iterator[States]:
        """The states of one point piece by piece, for stores larger than memory; a shard at a time.

        Args:
            point: as for `at`.
            dtype: of the values.
        """
        name = self._point(point)
        return (
            _states(shard, name, self.question, dtype, None)[0]
            for shard, length in zip(self.shards, self._lengths, strict=True)
            if length
        )

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
        """A row per sample that was looked at: number, key, rows, word, caption, truth and name."""
        import pandas as pd

        return pd.DataFrame([vars(record) for record in self.records])

    def to_dataset(self) -> Any:
        """A Hugging Face `datasets.IterableDataset` of rows, a column per point; streams, so it may exceed memory.

        Raises:
            InputError: if `datasets` is not installed.
        """
        return import_datasets().IterableDataset.from_generator(self._rows)

    def _rows(self) -> Iterator[dict[str, Any]]:
        for shard, length in zip(self.shards, self._lengths, strict=True):
            if not length:
                continue
            by_point = {name: _states(shard, name, self.question, torch.float32, None)[0] for name in self.points}
            about = next(iter(by_point.values()))
            for row in range(length):
                told = {"key": about.keys[row], "token": about.tokens[row], "step": about.steps[row]}
                told |= {"caption": about.captions[row], "name": about.names[row]}
                yield {**told, **{name: states.values[row].numpy() for name, states in by_point.items()}}

    def _point(self, point: str | None) -> str:
        if point is None:
            if len(self.points) == 1:
                return self.points[0]
            raise InputError(f"The store holds {len(self.points)} points; name one: {', '.join(self.points)}.")
        found = match_names(point, self.points, what="point of the store")
        if len(found) > 1:
            raise InputError(f"{point!r} names {len(found)} points of the store ({', '.join(found)}); name one.")
        return found[0]

    def _nothing(self, keys: set[str] | None) -> str:
        if keys is not None:
            return f"The store holds no states of the samples {', '.join(sorted(keys)[:4])}."
        seen = len(self.records)
        said = Counter(word for record in self.records for word in set(record.caption.lower().split()))
        common = ", ".join(word for word, _ in said.most_common(12))
        return f"None of the {seen} samples gave a state ({self.question.rule})." + (
            f" The captions' most frequent words: {common}." if common else ""
        )


def _states(
    shard: Shard, point: str, question: CollectionConfig, dtype: torch.dtype, keys: set[str] | None
) -> tuple[States, torch.Tensor]:
    """The states of one shard, and the order number of each row's sample."""
    records = [record for record in shard.records for _ in range(record.rows)]
    states = States(
        shard.values(point, slice(None)).to(dtype),
        point,
        tuple(record.key for record in records),
        predicted_words(shard),
        tuple(record.caption for record in records),
        tuple(record.name or "" for record in records),
        tuple(shard.steps.tolist()),
        question.source,
    )
    numbers = torch.tensor([record.number for record in records], dtype=torch.long)
    if keys is None:
        return states, numbers
    mine = torch.tensor([record.key in keys for record in records], dtype=torch.bool)
    return states[mine], numbers[mine]


def _joined(pieces: Sequence[States]) -> States:
    """States of several shards as one."""
    first = pieces[0]

    def all_of(attribute: str) -> tuple[Any, ...]:
        return tuple(value for states in pieces for value in getattr(states, attribute))

    return States(
        torch.cat([states.values for states in pieces]),
        first.at,
        all_of("keys"),
        all_of("tokens"),
        all_of("captions"),
        all_of("names"),
        all_of("steps"),
        first.source,
    )
