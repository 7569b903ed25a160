"""Edits of a hooked model's weights, put in force and taken out again: `model.edited`, `model.apply` and `model.revert`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from mmlens.core.errors import InputError
from mmlens.models.edit_ledger import Entry, RowDeltas, ledger_of
from mmlens.models.weight_rows import by_point, require_rows, row_weights


class RowEdits:
    """What a hooked model can do with edits of its weights. Edits belong to the Hugging Face model: wrappers share them."""

    _base: Any

    @property
    def edits(self) -> tuple[RowDeltas, ...]:
        """The edits in force, first to last."""
        return tuple(entry.edit for entry in ledger_of(self._base).entries)

    @property
    def unedited_fingerprint(self) -> str:
        """The fingerprint of the weights without adapters and edits in force; worked out anew only where weights have changed."""
        from mmlens.models.fingerprint import fingerprint

        def work_out() -> str:
            return fingerprint(self, adapters=False)  # type: ignore[arg-type]

        return ledger_of(self._base).fingerprint(self._base, work_out)

    @contextmanager
    def edited(self, *edits: RowDeltas) -> Iterator[Any]:
        """Have edits in force inside the `with`; afterwards every weight has its own bits back, also after an exception.

        Args:
            edits: from `mm.edits`; several compose, also on the same rows.

        Raises:
            InputError: if one was made for another model or cannot be made here, before anything is written.

        Example:
            >>> import mmlens as mm
            >>> row = model.blocks[2].mlp.W_out[7].clone()
            >>> with model.edited(mm.edits.zero_neurons(model, "L2.u7")):
            ...     bool(model.blocks[2].mlp.W_out[7].any())
            False
            >>> bool((model.blocks[2].mlp.W_out[7] == row).all())
            True
        """
        ledger = ledger_of(self._base)
        entries = [self._entry(edit) for edit in edits]
        try:
            for entry in entries:
                ledger.add(entry)
            yield self
        finally:
            ledger.remove(entries)

    def apply(self, edit: RowDeltas | Callable[[nn.Module], None]) -> Any:
        """Put an edit in force until `revert`; what `save_pretrained` then saves is the edited model.

        Args:
            edit: from `mm.edits`. (A function is called on every module, as in torch.)

        Returns:
            The model.

        Raises:
            InputError: if it was made for another model or cannot be made here, before anything is written.
        """
        if not isinstance(edit, RowDeltas):
            return super().apply(edit)  # type: ignore[misc]
        entry = self._entry(edit)
        ledger = ledger_of(self._base)
        done = False
        try:
            ledger.add(entry)
            done = True
        finally:
            if not done:
                ledger.remove([entry])
        return self

    def revert(self, edit: RowDeltas) -> Any:
        """Take an edit out of force; rows that no other edit touches have their own bits back.

        Edits may be reverted in any order: what is left is bit-equal to having applied only the others.

        Args:
            edit: one that is in force, or an equal one.

        Returns:
            The model.

        Raises:
            InputError: if it is not in force.
        """
        ledger = ledger_of(self._base)
        same = [entry for entry in reversed(ledger.entries) if entry.edit is edit or entry.edit == edit]
        if not same:
            held = "\n".join(f"  {entry.edit!r}" for entry in ledger.entries) or "  none"
            raise InputError(f"This edit is not in force:\n  {edit!r}\nIn force are:\n{held}")
        ledger.remove(same[:1])
        return self

    def _entry(self, edit: RowDeltas) -> Entry:
        """The edit sorted by block, once it is known that it can be made."""
        if not isinstance(edit, RowDeltas):
            raise InputError(f"An edit is expected (see mm.edits), found {type(edit).__name__}.")
        edit.check(self)  # type: ignore[arg-type]
        require_rows(self, edit.rows, edit.deltas.shape[-1])  # type: ignore[arg-type]
        points = {point: (rows, edit.deltas[numbers]) for point, (rows, numbers) in by_point(edit.rows).items()}
        return Entry(edit, points, row_weights(self, points))  # type: ignore[arg-type]
