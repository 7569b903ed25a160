"""The ledger of a model's edited rows: what is in force, and the bits that were there before.

What is in force is always written as

    row = original row + sum of the deltas in force      (summed in at least float32, rounded once)

so that edits compose, may be taken out in any order, and leave the very bits behind that they found.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int
from torch import nn

from mmlens.core.units import Unit


@runtime_checkable
class RowDeltas(Protocol):
    """Something that can be added to rows of weights: `mmlens.edits.Edit`."""

    @property
    def rows(self) -> Sequence[Unit]:
        """The neurons whose rows of `W_out` change."""

    @property
    def deltas(self) -> Float[torch.Tensor, "row d_model"]:
        """What is added to each row."""


@dataclass(eq=False)
class Entry:
    """One edit in force; an edit may be in force twice.

    Attributes:
        edit: the edit.
        points: per hook point of neurons, its rows and what is added to each.
        weights: per point, the real parameter that reads it.
    """

    edit: RowDeltas
    points: dict[str, tuple[Int[torch.Tensor, "row"], Float[torch.Tensor, "row d_model"]]]
    weights: dict[str, Float[torch.Tensor, "d_model neuron"]]


@dataclass
class _Kept:
    """The rows of one block as they were, and as they were last written.

    Attributes:
        weight: the real parameter, `[d_model neuron]`.
        slots: where each row is kept, by its number.
        originals, written: `[row d_model]`.
    """

    weight: torch.Tensor
    slots: dict[int, int]
    originals: torch.Tensor
    written: torch.Tensor


@dataclass
class Ledger:
    """What is in force on one Hugging Face model, whichever wrapper put it there; see `ledger_of`.

    Attributes:
        entries: the edits in force, first to last.
    """

    entries: list[Entry] = field(default_factory=list)
    _kept: dict[str, _Kept] = field(default_factory=dict)
    _fingerprint: str = ""
    _versions: dict[int, int] = field(default_factory=dict)

    def add(self, entry: Entry) -> None:
        """Put an edit in force. Rows are kept before the first is written, so that `remove` can undo it at any moment."""
        for point, (rows, _) in entry.points.items():
            weight = entry.weights[point]
            kept = self._kept.get(point)
            known = {} if kept is None else kept.slots
            new = [row for row in dict.fromkeys(rows.tolist()) if row not in known]
            own = weight.detach()[:, torch.tensor(new, dtype=torch.long, device=weight.device)].T.contiguous()
            slots = {**known, **{row: len(known) + n for n, row in enumerate(new)}}
            originals = own if kept is None else torch.cat([kept.originals, own])
            written = own if kept is None else torch.cat([kept.written, own])
            self._kept[point] = _Kept(weight, slots, originals, written)
        self.entries.append(entry)
        for point in entry.points:
            self._write(point)

    def remove(self, entries: Sequence[Entry]) -> None:
        """Take edits out of force, those of them that are in it."""
        touched = {point for entry in entries for point in entry.points if point in self._kept}
        self.entries = [entry for entry in self.entries if not any(entry is other for other in entries)]
        for point in touched:
            _warn_of_changes(self._kept[point], point)
            self._write(point)

    def fingerprint(self, base: nn.Module, work_out: Callable[[], str]) -> str:
        """The fingerprint of the unedited weights; worked out anew only where weights have changed by other hands.

        Args:
            base: the Hugging Face model.
            work_out: computes it from the weights as they are. Edits ask for it before they are put in force.
        """
        versions = _versions(base)
        if not self._fingerprint or (not self.entries and versions != self._versions):
            self._fingerprint = work_out()
            self._versions = versions
        return self._fingerprint

    @torch.no_grad()
    def _write(self, point: str) -> None:
        """Write a block's rows as the edits in force want them; rows that none of them touches are forgotten."""
        kept = self._kept[point]
        wide = torch.promote_types(kept.weight.dtype, torch.float32)
        total = torch.zeros(kept.originals.shape, dtype=wide, device=kept.weight.device)
        touched = torch.zeros(len(total), dtype=torch.bool, device=kept.weight.device)
        for entry in self.entries:
            if point in entry.points:
                rows, deltas = entry.points[point]
                slots = torch.tensor([kept.slots[row] for row in rows.tolist()], device=total.device)
                total.index_add_(0, slots, deltas.to(total))
                touched[slots] = True
        rows = torch.where(touched[:, None], (kept.originals + total).to(kept.weight.dtype), kept.originals)
        before = _version(kept.weight)
        kept.weight.index_copy_(1, torch.tensor(list(kept.slots), device=total.device), rows.T)
        own = self._versions.get(id(kept.weight))
        if own is not None:  # our own writing is no change of the model
            self._versions[id(kept.weight)] = own + _version(kept.weight) - before
        if touched.all():
            self._kept[point] = _Kept(kept.weight, kept.slots, kept.originals, rows)
            return
        staying = (row for row, stays in zip(kept.slots, touched.tolist(), strict=True) if stays)
        left = {row: n for n, row in enumerate(staying)}
        if left:
            self._kept[point] = _Kept(kept.weight, left, kept.originals[touched], rows[touched])
        else:
            del self._kept[point]


_LEDGERS: "WeakKeyDictionary[nn.Module, Ledger]" = WeakKeyDictionary()


def ledger_of(base: nn.Module) -> Ledger:
    """The ledger of a Hugging Face model; its wrappers share it, and it goes with the model."""
    return _LEDGERS.setdefault(base, Ledger())


def _versions(base: nn.Module) -> dict[int, int]:
    """How often each parameter was written to in place. Walks the modules itself: `parameters()` takes ten times as long."""
    found: dict[int, int] = {}
    waiting: list[nn.Module | None] = [base]
    while waiting:
        module = waiting.pop()
        if module is not None:
            found.update((id(weight), _version(weight)) for weight in module._parameters.values() if weight is not None)
            waiting.extend(module._modules.values())
    return found


def _version(weight: torch.Tensor) -> int:
    """How often a weight was written to in place."""
    return 0 if weight.is_inference() else weight._version


def _warn_of_changes(kept: _Kept, point: str) -> None:
    """Say so if something else wrote to the rows while they were edited: it is lost now."""
    now = kept.weight.detach()[:, torch.tensor(list(kept.slots), device=kept.weight.device)].T
    if not torch.equal(now, kept.written):
        warnings.warn(
            f"Edited rows behind {point} were changed by something else while the edit was in force "
            "(training, or an adapter merged into them); that is lost with the edit. Revert edits before changing weights.",
            stacklevel=5,
        )
