"""Edits of a hooked model's weights, put in force and taken out again."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from mmlens.architectures.adapter_layers import require_sum
from mmlens.core.contract import checked
from mmlens.core.errors import InputError
from mmlens.models.claims import claimed
from mmlens.models.edit_ledger import Entry, Ledger, RowDeltas, ledger_of
from mmlens.models.fingerprint import fingerprint
from mmlens.models.protocol import HookedModel
from mmlens.models.weight_rows import by_point, read_by, require_rows


@runtime_checkable
class WeightEdit(RowDeltas, Protocol):
    """Something that can be added to rows of weights, made for one model: `mmlens.edits.Edit`."""

    def check(self, model: Any) -> None:
        """Raise InputError if it was made for another model."""


@dataclass(frozen=True)
class RowEdits:
    """The edits of a model's weights. They belong to the Hugging Face model: wrappers share them.

    Attributes:
        model: the hooked model.
    """

    model: HookedModel

    @property
    def _ledger(self) -> Ledger:
        return ledger_of(self.model.base)

    @property
    def edits(self) -> tuple[RowDeltas, ...]:
        """The edits in force, first to last."""
        return tuple(entry.edit for entry in self._ledger.entries)

    @property
    def unedited_fingerprint(self) -> str:
        """The fingerprint of the weights without adapters and edits in force; worked out anew only where weights have changed."""
        return self._ledger.fingerprint(self.model.base, lambda: fingerprint(self.model, adapters=False))

    @contextmanager
    def edited(self, *edits: WeightEdit) -> Iterator[HookedModel]:
        """Have edits in force inside the `with`; afterwards every weight has its own bits back, also after an exception.

        Args:
            edits: from `mm.edits`; several compose, also on the same rows.

        Raises:
            InputError: if one was made for another model or cannot be made here, before anything is written; while another
                thread has something in force on the model.

        Example:
            >>> import mmlens as mm
            >>> row = model.blocks[2].mlp.W_out[7].clone()
            >>> with model.edited(mm.edits.zero_neurons(model, "L2.u7")):
            ...     bool(model.blocks[2].mlp.W_out[7].any())
            False
            >>> bool((model.blocks[2].mlp.W_out[7] == row).all())
            True
        """
        entries = [self._entry(edit) for edit in edits]
        with claimed(self.model, ", ".join(map(repr, edits)), changes_weights=True):
            try:
                for entry in entries:
                    self._ledger.add(entry)
                yield self.model
            finally:
                self._ledger.remove(entries)

    def put(self, edit: WeightEdit) -> None:
        """Put an edit in force until it is reverted; see `HookedMultimodal.apply`."""
        entry = self._entry(edit)
        with claimed(self.model, repr(edit), changes_weights=True):
            is_put = False
            try:
                self._ledger.add(entry)
                is_put = True
            finally:
                if not is_put:
                    self._ledger.remove([entry])

    @checked
    def revert(self, edit: WeightEdit) -> HookedModel:
        """Take an edit out of force; rows that no other edit touches have their own bits back.

        Edits may be reverted in any order: what is left is bit-equal to having applied only the others.

        Args:
            edit: one that is in force, or an equal one.

        Returns:
            The model.

        Raises:
            InputError: if it is not in force.
        """
        with claimed(self.model, f"Taking out {edit!r}", changes_weights=True):
            entries = self._ledger.entries
            matches = [entry for entry in reversed(entries) if entry.edit is edit or entry.edit == edit]
            if not matches:
                lines = "\n".join(f"  {entry.edit!r}" for entry in entries) or "  none"
                raise InputError(f"This edit is not in force:\n  {edit!r}\nIn force are:\n{lines}")
            self._ledger.remove(matches[:1])
        return self.model

    def _entry(self, edit: WeightEdit) -> Entry:
        """The edit sorted by block, once it is known that it can be made."""
        if not isinstance(edit, RowDeltas):
            raise InputError(f"An edit is expected (see mm.edits), found {type(edit).__name__}.")
        edit.check(self.model)
        require_rows(self.model, edit.rows, edit.deltas.shape[-1])
        points = {point: (rows, edit.deltas[numbers]) for point, (rows, numbers) in by_point(edit.rows).items()}
        linears = {point: read_by(self.model, point) for point in points}
        for point, linear in linears.items():
            require_sum(linear, f"W_out behind {point}", f"under {edit!r}")
        return Entry(edit, points, linears)
