"""A shard: the states of some samples, in memory or in one safetensors file that explains itself."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import torch
from jaxtyping import Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from mmlens.core.errors import InputError
from mmlens.core.files import whole_file

_FORMAT = "mmlens.store.ActivationStore.shard/1"
#: Tensors of a shard that are no states; hook names never begin like this.
_STEP, _TOKEN = "row.step", "row.token"


@dataclass(frozen=True)
class Record:
    """What is kept of a sample that was looked at, whether it gave rows or not.

    Attributes:
        number: its place in the store's order.
        key: hash of its pixels and prompt.
        rows: how many states it gave.
        word: the word that was found in the caption; None if none was, or none was looked for.
        caption: what the model generated; empty where it did not generate.
        truth: the sample's true caption, if known.
        name: the caller's identifier.
    """

    number: int
    key: str
    rows: int
    word: str | None = None
    caption: str = ""
    truth: str | None = None
    name: str | None = None


class Shard(Protocol):
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

    def values(self, point: str, rows: slice) -> torch.Tensor:
        """Some rows of a point."""


def predicted_words(shard: Shard) -> tuple[str, ...]:
    """Per row, the word that was looked for, or else the row's token as text."""
    records = (record for record in shard.records for _ in range(record.rows))
    pairs = zip(records, shard.tokens.tolist(), strict=True)
    return tuple(record.word if record.word is not None else shard.words.get(token, "") for record, token in pairs)


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

    def save(self, path: Path) -> None:
        """Write the shard, whole or not at all."""
        about = {
            "format": _FORMAT,
            "records": json.dumps([asdict(record) for record in self.records]),
            "words": json.dumps(self.words),
        }
        tensors = {**self.states, _STEP: self.steps, _TOKEN: self.tokens}
        with whole_file(path) as temporary:
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary, metadata=about)


@dataclass(frozen=True)
class FileShard:
    """A shard in a file; the file is mapped into memory, and only the rows that are asked for are read."""

    path: Path

    @cached_property
    def _about(self) -> dict[str, str]:
        try:
            with safe_open(self.path, framework="pt") as file:
                about = file.metadata() or {}
        except (SafetensorError, FileNotFoundError) as error:
            raise InputError(f"{self.path} is missing or damaged: {error}. Restore it, or collect anew.") from error
        if about.get("format") != _FORMAT:
            raise InputError(f"{self.path} is no shard of a store (format {about.get('format')!r}, not {_FORMAT!r}).")
        return about

    @cached_property
    def records(self) -> tuple[Record, ...]:
        """The samples."""
        return tuple(Record(**fields) for fields in json.loads(self._about["records"]))

    @cached_property
    def words(self) -> dict[int, str]:
        """The tokens that occur, as text."""
        return {int(token): word for token, word in json.loads(self._about["words"]).items()}

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
        with safe_open(self.path, framework="pt") as file:
            return file.get_slice(point)[rows]
