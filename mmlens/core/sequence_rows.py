"""Row numbers that know which sequence they count on: what a token layout hands out."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from mmlens.core.errors import InputError

#: Functions whose whole numbers are no rows: orders, counts, sums.
_OTHER_NUMBERS = frozenset(
    getattr(torch.Tensor, name)
    for name in (
        *("argsort", "argmax", "argmin", "nonzero", "bincount", "sum", "count_nonzero", "cumsum", "prod", "diff"),
        *("new_zeros", "new_ones", "new_full", "new_empty", "new_tensor"),
    )
) | {torch.searchsorted, torch.zeros_like, torch.ones_like, torch.full_like, torch.arange}


class SequenceRows(torch.Tensor):
    """Row numbers along one sequence: a tensor in every use, and as `positions=` rows of that sequence and of no other.

    Indexing, joining and moving keep what they know; joined with rows of another sequence they are refused.

    Attributes:
        sequence: what they count along: `"language"`, `"vision"`, `"projector"`.
        sample: whose rows they are; None where that is not one sample alone.
        per_sample: whether the first axis runs over the samples of the batch.
    """

    sequence: str
    sample: int | None
    per_sample: bool

    @staticmethod
    def of(rows: torch.Tensor, sequence: str, *, sample: int | None = None, per_sample: bool = False) -> "SequenceRows":
        """Rows of a sequence, and of a sample where it is known whose they are."""
        result = rows.as_subclass(SequenceRows)
        result.sequence, result.sample, result.per_sample = sequence, sample, per_sample
        return result

    @property
    def plain(self) -> torch.Tensor:
        """The numbers alone."""
        return self.as_subclass(torch.Tensor)

    def __repr__(self) -> str:  # type: ignore[override]
        owner = "" if self.sample is None else f" of sample {self.sample}"
        return f"{self.sequence} rows {self.plain.tolist()}{owner}"

    def __deepcopy__(self, memo: dict[int, Any]) -> "SequenceRows":
        return SequenceRows.of(self.plain.clone(), self.sequence, sample=self.sample, per_sample=self.per_sample)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _rebuilt, (self.plain, self.sequence, self.sample, self.per_sample)

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            out = func(*args, **(kwargs or {}))
        operands = [rows for rows in _among(args[:1]) if hasattr(rows, "sequence")]
        if not operands or func in _OTHER_NUMBERS:
            return out
        result = out[0] if isinstance(out, tuple) and len(out) and isinstance(out[0], torch.Tensor) else out
        if not isinstance(result, torch.Tensor) or result.dtype not in (torch.int64, torch.int32):
            return out
        if type(result) not in (torch.Tensor, SequenceRows):  # another kind of tensor keeps its own
            return out
        sequences = sorted({rows.sequence for rows in operands})
        if len(sequences) > 1:
            raise InputError(
                f"Rows of the {' and the '.join(sequences)} sequence cannot be joined: the same number is another row on "
                "each. Name them by a rule, which holds on every sequence: mm.positions.box(...)."
            )
        samples = {rows.sample for rows in operands}
        sample = samples.pop() if len(samples) == 1 else None
        per_sample = operands[0].per_sample and result.ndim > 0 and len(result) == len(operands[0])
        if operands[0].per_sample and func is torch.Tensor.__getitem__ and isinstance(args[1], int):
            per_sample, sample = False, args[1] % len(operands[0])
        result_rows = cls.of(result.as_subclass(torch.Tensor), sequences[0], sample=sample, per_sample=per_sample)
        return result_rows if result is out else type(out)((result_rows, *out[1:]))


def _rebuilt(rows: torch.Tensor, sequence: str, sample: int | None, per_sample: bool) -> SequenceRows:
    """Rows out of a pickle."""
    return SequenceRows.of(rows, sequence, sample=sample, per_sample=per_sample)


def _among(values: Sequence[Any]) -> list[SequenceRows]:
    """The rows among arguments, and in lists of them."""
    result: list[SequenceRows] = []
    for value in values:
        if isinstance(value, SequenceRows):
            result.append(value)
        elif isinstance(value, list | tuple):
            result += _among(value)
    return result
