"""Cells put together for attention: those of one sample whose windows of keys are about the same."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from mmlens.execution.recording import Attended

#: Cells whose windows start at most so many rows apart are computed together,
_APART = 16
#: or at most this share of the window.
_SHARE = 0.15
#: From so many rows per cell on, torch's fused attention is faster than reading shared keys where they are.
_FUSED = 64


@dataclass(frozen=True)
class RowSpan:
    """One cell's rows in a packed call.

    Attributes:
        sample: which sample they belong to.
        rows: their positions.
        start: where they begin in the packed sequence.
    """

    sample: int
    rows: torch.Tensor
    start: int

    @property
    def stop(self) -> int:
        """Where they end."""
        return self.start + len(self.rows)


def spans_of(samples: Sequence[int], rows: Sequence[torch.Tensor]) -> list[RowSpan]:
    """Cells' rows, one behind the other."""
    spans, start = [], 0
    for sample, sample_rows in zip(samples, rows, strict=True):
        spans.append(RowSpan(sample, sample_rows, start))
        start += len(sample_rows)
    return spans


class QueryGroup:
    """Cells of one sample that are computed together, since their windows of keys are about the same.

    Args:
        queries: their rows that look.
        keys: their rows whose keys and values are their own.
        length: number of positions.
        causal: no row looks at a later one.
        device: where the index tensors are needed.
    """

    def __init__(
        self, queries: Sequence[RowSpan], keys: Sequence[RowSpan], length: int, causal: bool, device: torch.device
    ):
        self.sample = queries[0].sample
        self.count = len(queries)
        self.slots = max(len(span.rows) for span in queries)
        self.last = 1 + max(int(span.rows[-1]) for span in queries) if causal else length
        # many queries read all keys in one fused pass, which is worth a copy of those in front
        self.fused = self.slots >= _FUSED
        self.first = 0 if self.fused else min(int(span.rows[0]) for span in keys)
        self.window = max(self.last - self.first, 0)
        number = torch.arange(self.count)

        def flat(parts: Sequence[torch.Tensor]) -> torch.Tensor:
            return torch.cat(list(parts)).to(device)

        self.taken = flat([torch.arange(span.start, span.stop) for span in queries])
        self.slot = flat(
            [i * self.slots + torch.arange(len(span.rows)) for i, span in zip(number, queries, strict=True)]
        )
        inside = [span.rows < self.last for span in keys]
        self.own = flat([torch.arange(s.start, s.stop)[ok] for s, ok in zip(keys, inside, strict=True)])
        self.place = flat(
            [i * self.window + s.rows[ok] - self.first for i, s, ok in zip(number, keys, inside, strict=True)]
        )
        self.full = len(self.slot) == self.count * self.slots
        self.replaced = len(self.place) == self.count * self.window
        positions = torch.full((self.count, self.slots), self.last - 1)
        for i, span in enumerate(queries):
            positions[i, : len(span.rows)] = span.rows
        self.positions = positions.to(device)
        self._bias: dict[tuple[int, bool], tuple[torch.Tensor | None, torch.Tensor | None]] = {}

    def bias(self, attention: Attended) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """What is added to the scores of the keys in front of the window, and of those in it, `[cell slot key]`."""
        key = (id(attention.mask), attention.causal)
        if key not in self._bias:
            self._bias[key] = self._bias_of(attention)
        return self._bias[key]

    def _bias_of(self, attention: Attended) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        if attention.mask is None:
            if not attention.causal:
                return None, None
            keys = torch.arange(self.first, self.last, device=self.positions.device)
            return None, _added(keys <= self.positions[..., None], attention.key.dtype)
        sample_mask = attention.mask[min(self.sample, attention.mask.shape[0] - 1), 0, :, : self.last]
        sample_mask = (
            _added(sample_mask, attention.key.dtype)
            if sample_mask.dtype == torch.bool
            else sample_mask.clamp(min=lowest_score(sample_mask.dtype))
        )
        rows = (
            sample_mask[self.positions] if sample_mask.shape[0] > 1 else sample_mask.expand(self.count, self.slots, -1)
        )
        front = rows[..., : self.first]
        return front if self.first and bool(front.any()) else None, rows[..., self.first :]


def _added(visible: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Booleans as what is added to scores."""
    return torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill(~visible, lowest_score(dtype))


def lowest_score(dtype: torch.dtype) -> float:
    """A score that no weight is left of, and that does not overflow when a score is added to it."""
    return torch.finfo(dtype).min / 2


def query_groups(
    queries: Sequence[RowSpan], keys: Sequence[RowSpan], length: int, causal: bool, device: torch.device
) -> list[QueryGroup]:
    """Put cells into groups of one sample and about the same window.

    Args:
        queries, keys: as for `QueryGroup`, one of each per cell.
        length, causal, device: as for `QueryGroup`.
    """
    firsts = [int(key.rows[0]) for key in keys]
    order = sorted(range(len(queries)), key=lambda i: (queries[i].sample, firsts[i], len(queries[i].rows)))
    groups: list[list[int]] = []
    for i in order:
        if groups:
            head = groups[-1][0]
            apart = firsts[i] - firsts[head]
            near = apart <= max(_APART, _SHARE * (length - firsts[head]))
            alike = len(queries[i].rows) >= (1 - _SHARE) * len(queries[head].rows) - _APART
            if near and alike and queries[i].sample == queries[head].sample:
                groups[-1].append(i)
                continue
        groups.append([i])
    return [
        QueryGroup([queries[i] for i in members], [keys[i] for i in members], length, causal, device)
        for members in groups
    ]
