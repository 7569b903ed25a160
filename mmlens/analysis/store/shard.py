"""A shard: the states of some samples, in memory or in one safetensors file that explains itself."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
from jaxtyping import Int

from mmlens.analysis.store.collection_config import CollectionConfig
from mmlens.core.errors import DamagedFileError, InputError
from mmlens.core.results import TensorKind
from mmlens.core.tensor_files import TensorFile

_FILE = TensorKind(
    "mmlens.store.ActivationStore.shard",
    3,
    "shard of a store",
    {"records": list[dict], "words": dict[str, str], "question": dict[str, Any]},
)
#: Tensors of a shard that are no states; hook names never begin like this.
_STEP, _TOKEN = "row.step", "row.token"


@dataclass(frozen=True, slots=True)
class Record:
    """What is kept of a sample that was looked at, whether it gave rows or not.

    Attributes:
        number: its place in the store's order.
        key: hash of its pixels and prompt.
        rows: how many states it gave.
        words: per row, the word of the caption that the state predicts; empty where none was looked for.
        caption: what the model generated; empty where it did not generate.
        truth: the sample's true caption, if known.
        name: the caller's identifier.
    """

    number: int
    key: str
    rows: int
    words: tuple[str, ...] = ()
    caption: str = ""
    truth: str | None = None
    name: str | None = None


class RowSource(Protocol):
    """Rows of states by hook point, in memory or not."""

    def values(self, point: str, rows: slice) -> torch.Tensor:
        """Some rows of a point."""


class Shard(RowSource, Protocol):
    """The states of some samples, their rows in the order of `records`."""

    @property
    def records(self) -> Sequence[Record]:
        """The samples."""

    @property
    def steps(self) -> Int[torch.Tensor, "row"]:
        """Per row, its generation step or position."""

    @property
    def tokens(self) -> Int[torch.Tensor, "row"]:
        """Per row, its token id; -1 for rows of a picture's own towers."""

    @property
    def words(self) -> dict[int, str]:
        """The tokens that occur, as text."""


def predicted_words(shard: Shard) -> tuple[str, ...]:
    """Per row, the word that was looked for, or else the row's token as text."""
    words = (word for record in shard.records for word in record.words or (None,) * record.rows)
    pairs = zip(words, shard.tokens.tolist(), strict=True)
    return tuple(shard.words.get(token, "") if word is None else word for word, token in pairs)


@dataclass(frozen=True)
class MemoryShard:
    """A shard in memory.

    Attributes:
        states: by hook name, `[row *width]`.
        records, steps, tokens, words: as for `Shard`.
    """

    states: dict[str, torch.Tensor]
    records: tuple[Record, ...]
    steps: Int[torch.Tensor, "row"]
    tokens: Int[torch.Tensor, "row"]
    words: dict[int, str]

    def values(self, point: str, rows: slice) -> torch.Tensor:
        """Some rows of a point."""
        return self.states[point][rows]

    def save(self, path: Path, question: CollectionConfig) -> dict[str, Any]:
        """Write the shard, whole or not at all; gives its entry in an index."""
        about = {
            "records": [asdict(record) for record in self.records],
            "words": {str(token): word for token, word in self.words.items()},
            "question": question.as_json(),
        }
        _FILE.write(path, {**self.states, _STEP: self.steps, _TOKEN: self.tokens}, about)
        return FileShard(path).entry


@dataclass(frozen=True)
class FileShard:
    """A shard in a file; the file is mapped into memory, and only the rows that are asked for are read.

    Each tensor is compared with its checksum when it is first read.

    Attributes:
        path: the file.
        checksum: what the index says that its own is; empty if it is not known.
    """

    path: Path
    checksum: str = ""

    @cached_property
    def _file(self) -> TensorFile:
        try:
            file, _ = _FILE.open(self.path)
            if self.checksum and file.checksum != self.checksum:
                raise file.damaged("its index lists another one of this name")
        except InputError as error:
            raise DamagedFileError(
                f"A shard of the store is missing or damaged: {error} "
                f"mm.store.ActivationStore.repaired({str(self.path.parent)!r}) takes such shards out; the "
                "same mm.collect(..., into=...) then makes them anew, and nothing else."
            ) from error
        return file

    @property
    def entry(self) -> dict[str, Any]:
        """What an index says of it: the file, its checksum, and what it holds."""
        numbers = [record.number for record in self.records]
        counts = {"samples": len(numbers), "rows": self._file.shapes[_STEP][0], "numbers": [min(numbers), max(numbers)]}
        return {"file": self.path.name, "checksum": self._file.checksum, **counts}

    @property
    def question(self) -> CollectionConfig:
        """What was collected."""
        return CollectionConfig.from_json(self._file.about["question"])

    def check(self) -> None:
        """Compare every tensor with its checksum, and what is said of rows with how many there are.

        Raises:
            DamagedFileError: if something does not match.
        """
        for name in self._file.names:
            self._file.check(name)
        rows = sum(record.rows for record in self.records)
        wrong = [name for name, shape in self._file.shapes.items() if shape[:1] != (rows,)]
        if wrong:
            raise self._file.damaged(f"its samples have {rows} rows, and {', '.join(wrong)} another number")

    @cached_property
    def records(self) -> tuple[Record, ...]:
        """The samples."""
        # given up by the file, which else would hold all that is said of them once more
        records = self._file.about.pop("records")
        return tuple(Record(**{**fields, "words": tuple(fields["words"])}) for fields in records)

    @cached_property
    def words(self) -> dict[int, str]:
        """The tokens that occur, as text."""
        return {int(token): word for token, word in self._file.about["words"].items()}

    @property
    def steps(self) -> Int[torch.Tensor, "row"]:
        """Per row, its generation step or position."""
        return self.values(_STEP, slice(None))

    @property
    def tokens(self) -> Int[torch.Tensor, "row"]:
        """Per row, its token id."""
        return self.values(_TOKEN, slice(None))

    def values(self, point: str, rows: slice) -> torch.Tensor:
        """Some rows of a point."""
        return self._file.rows(point, rows)
