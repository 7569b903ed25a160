"""The ledger of a model's edited rows: what is in force, and the bits that were there before.

What is in force is always written as

    row = original row + sum of the deltas in force      (summed in at least float32, rounded once)

so that edits compose, may be taken out in any order, and leave the very bits behind that they found.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol, cast, runtime_checkable
from weakref import WeakKeyDictionary, ref

import torch
from jaxtyping import Float, Int
from torch import nn

from mmlens.architectures.adapter_layers import base_layer
from mmlens.architectures.tensor_parallel import put_columns, whole
from mmlens.architectures.weights import plain_weight
from mmlens.core.errors import InputError
from mmlens.core.interrupts import uninterrupted
from mmlens.core.units import Unit
from mmlens.models.fingerprint import memory_state


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
        linears: per point, the real linear that reads it.
    """

    edit: RowDeltas
    points: dict[str, tuple[Int[torch.Tensor, "row"], Float[torch.Tensor, "row d_model"]]]
    linears: dict[str, nn.Module]


@dataclass
class _Rows:
    """The rows of one linear as they were, and as they were last written.

    Attributes:
        linear: the real linear; its weight is looked up anew each time, since `.to(dtype)` and others exchange it.
        slots: where each row is, by its number.
        originals: `[row d_model]`, in the dtype that the weight had when the first edit came.
        written: `[row d_model]`, in the dtype that the weight had when they were written.
    """

    linear: nn.Module
    slots: dict[int, int]
    originals: torch.Tensor
    written: torch.Tensor


@dataclass
class Ledger:
    """What is in force on one Hugging Face model, whichever wrapper put it there; see `ledger_of`.

    Attributes:
        base: a reference to the Hugging Face model.
        entries: the edits in force, first to last.
    """

    base: "ref[nn.Module]"
    entries: list[Entry] = field(default_factory=list)
    _rows: dict[str, _Rows] = field(default_factory=dict)
    _guards: dict[str, ExitStack] = field(default_factory=dict)
    _fingerprint: str = ""
    _versions: dict[int, tuple[int, int]] = field(default_factory=dict)

    def add(self, entry: Entry) -> None:
        """Put an edit in force. Rows are copied before the first is written, so that `remove` can undo it at any moment.

        From then on, loading a state dict over edited rows is refused.
        """
        with uninterrupted():
            for point, (numbers, _) in entry.points.items():
                rows = self._rows.get(point)
                slots_before = {} if rows is None else rows.slots
                new = [row for row in dict.fromkeys(numbers.tolist()) if row not in slots_before]
                values = _read(entry.linears[point], new)
                slots = {**slots_before, **{row: len(slots_before) + n for n, row in enumerate(new)}}
                originals = values if rows is None else _joined(rows.originals, values)
                values_now = values if rows is None else _joined(rows.written, values)
                self._rows[point] = _Rows(entry.linears[point], slots, originals, values_now)
                if point not in self._guards:
                    self._guards[point] = _guarded(self.base(), entry.linears[point], point)
            self.entries.append(entry)
            for point in entry.points:
                self._write(point, self.entries)

    def remove(self, entries: Sequence[Entry]) -> None:
        """Take edits out of force, those of them that are in it; they stay in it if their rows cannot be written."""
        points = {point for entry in entries for point in entry.points if point in self._rows}
        rest = [entry for entry in self.entries if not any(entry is other for other in entries)]
        with uninterrupted():
            for point in points:
                _warn_of_changes(self._rows[point], point)
                self._write(point, rest)
            self.entries = rest

    @contextmanager
    def lifted(self) -> Iterator[None]:
        """The weights without edits inside the `with`, which may change them; afterwards the edits are on what is there then."""
        entries = self.entries
        self.remove(entries)
        try:
            yield
        finally:
            for entry in entries:
                self.add(entry)

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
    def _write(self, point: str, entries: Sequence[Entry]) -> None:
        """Write a point's rows as some edits want them; rows that none of them touches are forgotten."""
        rows = self._rows[point]
        weight = plain_weight(rows.linear, f"W_out behind {point}")
        wide = torch.promote_types(torch.promote_types(weight.dtype, rows.originals.dtype), torch.float32)
        originals = rows.originals.to(weight.device)
        total = torch.zeros(originals.shape, dtype=wide, device=weight.device)
        is_edited = torch.zeros(len(total), dtype=torch.bool, device=weight.device)
        for entry in entries:
            if point in entry.points:
                numbers, deltas = entry.points[point]
                slots = torch.tensor([rows.slots[row] for row in numbers.tolist()], device=total.device)
                total.index_add_(0, slots, deltas.to(total))
                is_edited[slots] = True
        new = torch.where(is_edited[:, None], (originals + total).to(weight.dtype), originals.to(weight.dtype))
        parameter = cast(torch.Tensor, base_layer(rows.linear).weight)
        before = memory_state(parameter)
        put_columns(weight, torch.tensor(list(rows.slots), device=total.device), new.T)
        version = self._versions.get(id(parameter))
        if version is not None:  # our own writing is no change of the model
            self._versions[id(parameter)] = (version[0] + memory_state(parameter)[0] - before[0], version[1])
        rest = [row for row, stays in zip(rows.slots, is_edited.tolist(), strict=True) if stays]
        if rest:
            slots_left = {row: n for n, row in enumerate(rest)}
            self._rows[point] = _Rows(rows.linear, slots_left, rows.originals[is_edited.cpu()], new[is_edited])
        else:
            del self._rows[point]
            self._guards.pop(point).close()


_LEDGERS: "WeakKeyDictionary[nn.Module, Ledger]" = WeakKeyDictionary()


def ledger_of(base: nn.Module) -> Ledger:
    """The ledger of a Hugging Face model; its wrappers share it, and it goes with the model."""
    return _LEDGERS.setdefault(base, Ledger(ref(base)))


def _read(linear: nn.Module, numbers: Sequence[int]) -> Float[torch.Tensor, "row d_model"]:
    """A copy of rows as they are now."""
    weight = whole(plain_weight(linear, "A weight").detach())
    return weight[:, torch.tensor(numbers, dtype=torch.long, device=weight.device)].T.contiguous()


def _joined(rows: torch.Tensor, more: torch.Tensor) -> torch.Tensor:
    """Rows and more rows, in a dtype that holds both exactly."""
    dtype = torch.promote_types(rows.dtype, more.dtype)
    return torch.cat([rows.to(more.device, dtype), more.to(dtype)])


def _guarded(base: nn.Module | None, linear: nn.Module, point: str) -> ExitStack:
    """Refuse, until it is closed, that a state dict is loaded over edited rows: it would be mixed with the edits.

    The refusal comes from the outermost module that is loaded, before anything of it is.
    """
    layer, stack = base_layer(linear), ExitStack()
    if base is None:
        return stack
    path = next((name for name, module in base.named_modules() if module is layer), "")

    def refuse(module: nn.Module, state_dict: Mapping[str, object], prefix: str, *_: object, name: str) -> None:
        if f"{prefix}{name}" in state_dict:
            raise InputError(
                f"The state dict holds {prefix}{name}, and rows of it behind {point} are edited now; what is loaded would be "
                "mixed with the edit. Take the edit out first (leave its `with`, or model.revert), load, and put it in force "
                "again."
            )

    steps = f"{path}.weight".split(".")
    modules: list[nn.Module] = [base]
    for step in steps[:-1]:
        modules.append(modules[-1]._modules[step] or modules[-1])
    for depth, module in enumerate(modules):
        hook = partial(refuse, name=".".join(steps[depth:]))
        stack.callback(module.register_load_state_dict_pre_hook(hook).remove)
    return stack


def _versions(base: nn.Module) -> dict[int, tuple[int, int]]:
    """How often each parameter was written to in place, and where it lies. Walks the modules itself: `parameters()` takes ten
    times as long."""
    versions: dict[int, tuple[int, int]] = {}
    stack: list[nn.Module | None] = [base]
    while stack:
        module = stack.pop()
        if module is not None:
            versions.update(
                (id(weight), memory_state(weight)) for weight in module._parameters.values() if weight is not None
            )
            stack.extend(module._modules.values())
    return versions


def _warn_of_changes(rows: _Rows, point: str) -> None:
    """Say so if something else wrote to the rows while they were edited: it is lost now."""
    now = _read(rows.linear, list(rows.slots))
    # what `.to(dtype)` did to them, there or there and back, is no change
    dtypes = {now.dtype, torch.bfloat16, torch.float16}
    if not any(torch.equal(now, rows.written.to(dtype).to(now)) for dtype in dtypes):
        warnings.warn(
            f"Edited rows behind {point} were changed by something else while the edit was in force "
            "(training, or an adapter merged into them); that is lost with the edit. Revert edits before changing weights.",
            stacklevel=5,
        )
