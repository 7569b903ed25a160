"""The states of one point where they are too many for memory: read from their files a piece at a time."""

from bisect import bisect_right
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate, groupby

import torch
from jaxtyping import Float

from mmlens.analysis.store.collection_config import CollectionConfig
from mmlens.analysis.store.shard import RowSource, Shard, predicted_words
from mmlens.analysis.store.states import States
from mmlens.core.contract import checked
from mmlens.core.errors import InputError
from mmlens.core.kinds import Count


@dataclass(frozen=True)
class _Run:
    """Rows of a shard that follow each other in the order of the dataset."""

    shard: RowSource
    start: int
    stop: int


@dataclass(frozen=True)
class MappedRows:
    """A matrix of states in files; `rows[100:200]` reads these.

    Attributes:
        point: the hook point.
        shape: number of states, and the shape of each.
        dtype: in which they are read.
    """

    point: str
    shape: tuple[int, ...]
    _runs: tuple[_Run, ...] = field(repr=False)
    dtype: torch.dtype = torch.float32

    def __len__(self) -> int:
        return self.shape[0]

    @cached_property
    def _ends(self) -> list[int]:
        return list(accumulate(run.stop - run.start for run in self._runs))

    def __getitem__(self, rows: slice) -> Float[torch.Tensor, "sample *width"]:
        first, last, step = rows.indices(len(self))
        if step != 1:
            raise InputError(f"States in files are read as they follow each other; found the slice {rows}.")
        pieces = []
        for number in range(bisect_right(self._ends, first), len(self._runs)):
            run, end = self._runs[number], self._ends[number]
            begin = end - (run.stop - run.start)
            if max(first, begin) >= last:
                break
            piece = slice(run.start + max(first, begin) - begin, run.start + min(last, end) - begin)
            pieces.append(run.shard.values(self.point, piece).to(self.dtype))
        return torch.cat(pieces) if pieces else torch.zeros(0, *self.shape[1:], dtype=self.dtype)


@dataclass(frozen=True)
class MappedStates:
    """States that stay in their files: `store.mapped(point)`. What is known of each row is in memory, the values are not.

    Attributes:
        values: read by slices.
        keys, tokens, captions, names, steps: per row, as for `States`.
        source: the model that they come from.

    Example:
        >>> import mmlens as mm
        >>> at = "blocks.4.hook_resid_post"
        >>> store = mm.collect(model, mm.lab.scenes(2), at=at, positions="image", progress=False)
        >>> states = store.mapped()
        >>> states.values.shape, states[:100]
        ((128, 192), States([100, 192] [sample width] at blocks.4.hook_resid_post, for <image>))
        >>> mm.extract_concepts(states, 3, batch_size=50).codes.shape
        torch.Size([128, 3])
    """

    values: MappedRows
    keys: tuple[str, ...] = field(repr=False)
    tokens: tuple[str, ...] = field(repr=False)
    captions: tuple[str, ...] = field(repr=False)
    names: tuple[str, ...] = field(repr=False)
    steps: tuple[int, ...] = field(repr=False)
    source: str = ""

    @classmethod
    def of(
        cls,
        shards: Sequence[Shard],
        point: str,
        question: CollectionConfig,
        *,
        keys: Collection[str] | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> "MappedStates":
        """Those of some shards, in the order of the dataset; several processes took its samples in turn.

        Args:
            shards: with a state at least.
            point: the hook point.
            question: what was collected.
            keys: of the samples whose states count; all if None.
            dtype: of the values as they are read.
        """
        order = sorted(
            (record.number, number, row)
            for number, shard in enumerate(shards)
            for row, record in enumerate(shard.records)
            if keys is None or record.key in keys
        )
        starts = [[0, *accumulate(record.rows for record in shard.records)] for shard in shards]
        runs = []
        # of samples that follow each other in the dataset and in a shard, one run is made
        for _, group in groupby(enumerate(order), lambda item: (item[1][1], item[1][2] - item[0])):
            places = [place for _, (_, *place) in group]
            (number, first), (_, last) = places[0], places[-1]
            runs.append(_Run(shards[number], starts[number][first], starts[number][last + 1]))
        runs = [run for run in runs if run.start < run.stop]
        words = {id(shard): predicted_words(shard) for shard in shards}
        steps = {id(shard): shard.steps.tolist() for shard in shards}
        owners = [
            shards[number].records[row] for _, number, row in order for _ in range(shards[number].records[row].rows)
        ]
        width = runs[0].shard.values(point, slice(0, 1)).shape[1:]
        return cls(
            MappedRows(point, (len(owners), *width), tuple(runs), dtype),
            tuple(record.key for record in owners),
            tuple(word for run in runs for word in words[id(run.shard)][run.start : run.stop]),
            tuple(record.caption for record in owners),
            tuple(record.name or "" for record in owners),
            tuple(step for run in runs for step in steps[id(run.shard)][run.start : run.stop]),
            question.source,
        )

    @classmethod
    def of_rows(
        cls, rows: RowSource, point: str, shape: tuple[int, ...], *, tokens: Sequence[str], captions: Sequence[str]
    ) -> "MappedStates":
        """Those of rows that no samples are known of, with what is said of each.

        Args:
            rows: which has them.
            point: the hook point.
            shape: of its tensor, `[row *width]`.
            tokens, captions: per row.
        """
        no_names, count = ("",) * shape[0], shape[0]
        values = MappedRows(point, shape, (_Run(rows, 0, count),))
        return cls(values, no_names, tuple(tokens), tuple(captions), no_names, (0,) * count)

    @property
    def at(self) -> str:
        """The hook point."""
        return self.values.point

    def __len__(self) -> int:
        return len(self.values)

    @checked
    def __getitem__(self, rows: slice) -> States:
        """Some states that follow each other, in memory."""
        return States(
            self.values[rows],
            self.at,
            self.keys[rows],
            self.tokens[rows],
            self.captions[rows],
            self.names[rows],
            self.steps[rows],
            self.source,
        )

    @checked
    def split(self, size: Count) -> Iterator[States]:
        """All of them, some at a time.

        Args:
            size: how many at a time.
        """
        return (self[start : start + size] for start in range(0, len(self), size))
