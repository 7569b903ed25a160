"""From batches to shards: rows gather until a shard is full, and go to the folder or stay in memory."""

from collections.abc import Sequence
from typing import Any

import torch

from mmlens.analysis.samples.sample import Sample
from mmlens.analysis.store.folder import StoreFolder
from mmlens.analysis.store.rules import CollectedBatch
from mmlens.analysis.store.shard import MemoryShard, Record
from mmlens.core.errors import MMLensError

#: The dtypes that states are kept in.
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


class ShardWriter:
    """Gathers what batches give, and makes shards of it; on leaving the `with`, also by an exception, the last one too.

    Args:
        folder: where shards go; None to keep them in memory.
        dtype: in which states are kept.
        samples: how many samples fill a shard.
        tokenizer: tells tokens as text; None where there is none.

    Attributes:
        kept: the shards, where they stay in memory.
    """

    def __init__(self, folder: StoreFolder | None, *, dtype: torch.dtype, samples: int, tokenizer: Any | None):
        self.kept: list[MemoryShard] = []
        self._folder = folder
        self._dtype = dtype
        self._samples = samples
        self._tokenizer = tokenizer
        self._records: list[Record] = []
        self._taken: list[dict[str, torch.Tensor]] = []
        self._steps: list[int] = []
        self._tokens: list[int] = []

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, *exception: object) -> None:
        self._flush()

    def add(self, numbers: Sequence[int], samples: Sequence[Sample], result: CollectedBatch) -> None:
        """Take in what a batch gave."""
        states = {name: self._narrowed(name, values) for name, values in result.states.items()}
        self._taken.append(states)
        self._steps += result.steps
        self._tokens += result.tokens
        fields = zip(numbers, samples, result.counts, result.words, result.captions, strict=True)
        self._records += [
            Record(number, sample.key, rows, words, caption, sample.caption, sample.name)
            for number, sample, rows, words, caption in fields
        ]
        if len(self._records) >= self._samples:
            self._flush()

    def _narrowed(self, name: str, values: torch.Tensor) -> torch.Tensor:
        narrow = values.to(self._dtype).cpu()
        if not narrow.isfinite().all() and values.isfinite().all():
            largest = float(values.abs().max())
            raise MMLensError(
                f"A state at {name} is as large as {largest:.3g}, beyond what {str(self._dtype).removeprefix('torch.')} holds; "
                "collect with dtype='bfloat16' or 'float32'."
            )
        return narrow

    def _flush(self) -> None:
        if not self._records:
            return
        names = list(self._taken[0])
        tokens = torch.tensor(self._tokens, dtype=torch.int64)
        shard = MemoryShard(
            {name: torch.cat([states[name] for states in self._taken]) for name in names},
            tuple(self._records),
            torch.tensor(self._steps, dtype=torch.int64),
            tokens,
            self._words(tokens),
        )
        self._records, self._taken, self._steps, self._tokens = [], [], [], []
        if self._folder is None:
            self.kept.append(shard)
        else:
            self._folder.add(shard)

    def _words(self, tokens: torch.Tensor) -> dict[int, str]:
        ids = [token for token in tokens.unique().tolist() if token >= 0]
        if self._tokenizer is None:
            return {token: str(token) for token in ids}
        return {token: self._tokenizer.decode([token]).strip() for token in ids}
