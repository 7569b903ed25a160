"""Rows of MLP output weights, changed and put back: `model.edited`, `model.apply` and `model.revert`.

The original rows are kept while an edit touches them, and what is in force is always written as

    row = original row + sum of the deltas in force      (summed in at least float32, rounded once)

so that edits compose, may be reverted in any order, and leave the very bits behind that they found.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int
from torch import nn

from mmlens.core.errors import InputError
from mmlens.core.names import Part
from mmlens.core.places import Neuron
from mmlens.models.weights import plain_weight

if TYPE_CHECKING:
    from mmlens.models.hooked import HookedMultimodal

#: A block: which part, which layer.
_Place = tuple[Part, int]


@runtime_checkable
class RowDeltas(Protocol):
    """Something that can be added to rows of weights: `mmlens.edits.Edit`."""

    @property
    def rows(self) -> Sequence[Neuron]:
        """The neurons whose rows of `W_out` change."""

    @property
    def deltas(self) -> Float[torch.Tensor, "row d_model"]:
        """What is added to each row."""

    def check(self, model: "HookedMultimodal") -> None:
        """Raise InputError if it was made for another model."""


@dataclass(eq=False)
class _Entry:
    """One edit in force; an edit may be in force twice."""

    edit: RowDeltas
    places: dict[_Place, tuple[Int[torch.Tensor, "_"], Float[torch.Tensor, "_ d_model"]]]
    weights: dict[_Place, torch.Tensor]


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
class _InForce:
    """What is in force on one Hugging Face model, whichever wrapper put it there."""

    entries: list[_Entry] = field(default_factory=list)
    kept: dict[_Place, _Kept] = field(default_factory=dict)
    fingerprint: str = ""
    versions: dict[int, int] = field(default_factory=dict)


_IN_FORCE: "WeakKeyDictionary[nn.Module, _InForce]" = WeakKeyDictionary()


class RowEdits:
    """What a hooked model can do with edits of its weights. Edits belong to the Hugging Face model: wrappers share them."""

    _base: Any

    @property
    def edits(self) -> tuple[RowDeltas, ...]:
        """The edits in force, first to last."""
        return tuple(entry.edit for entry in _state(self._base).entries)

    @property
    def unedited_fingerprint(self) -> str:
        """The fingerprint of the weights without adapters and edits in force; worked out anew only where weights have changed."""
        from mmlens.models.fingerprint import fingerprint

        state = _state(self._base)
        versions = _versions(self._base)
        if not state.fingerprint or (not state.entries and versions != state.versions):
            state.fingerprint = fingerprint(self, adapters=False)  # type: ignore[arg-type]
            state.versions = versions
        return state.fingerprint

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
            >>> with model.edited(mm.edits.zero_neurons(model, [mm.Neuron(2, 7)])):
            ...     bool(model.blocks[2].mlp.W_out[7].any())
            False
            >>> bool((model.blocks[2].mlp.W_out[7] == row).all())
            True
        """
        state = _state(self._base)
        entries = [self._entry(edit) for edit in edits]
        try:
            for entry in entries:
                _add(state, entry)
            yield self
        finally:
            _remove(state, entries)

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
        state = _state(self._base)
        done = False
        try:
            _add(state, entry)
            done = True
        finally:
            if not done:
                _remove(state, [entry])
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
        state = _state(self._base)
        same = [entry for entry in reversed(state.entries) if entry.edit is edit or entry.edit == edit]
        if not same:
            held = "\n".join(f"  {entry.edit!r}" for entry in state.entries) or "  none"
            raise InputError(f"This edit is not in force:\n  {edit!r}\nIn force are:\n{held}")
        _remove(state, same[:1])
        return self

    def _entry(self, edit: RowDeltas) -> _Entry:
        """The edit sorted by block, once it is known that it can be made."""
        if not isinstance(edit, RowDeltas):
            raise InputError(f"An edit is expected (see mm.edits), found {type(edit).__name__}.")
        edit.check(self)  # type: ignore[arg-type]
        places = {place: (rows, edit.deltas[numbers]) for place, (rows, numbers) in _by_place(edit.rows).items()}
        weights = row_weights(self, places)  # type: ignore[arg-type]
        for place, (rows, deltas) in places.items():
            _check_rows(place, rows, deltas.shape[-1], weights[place])
        return _Entry(edit, places, weights)


def _by_place(rows: Sequence[Neuron]) -> dict[_Place, tuple[Int[torch.Tensor, "_"], Int[torch.Tensor, "_"]]]:
    """Neurons sorted by block: per (part, layer) their indices there, and their numbers in the sequence."""
    numbers: dict[_Place, list[int]] = {}
    for number, neuron in enumerate(rows):
        numbers.setdefault((neuron.part, neuron.layer), []).append(number)
    return {place: (torch.tensor([rows[n].index for n in some]), torch.tensor(some)) for place, some in numbers.items()}


def row_weights(
    model: "HookedMultimodal", places: Iterable[_Place]
) -> dict[_Place, Float[torch.Tensor, "d_model neuron"]]:
    """The real parameters whose column i is the row of neuron i; under LoRA adapters the base layers'.

    Args:
        model: the hooked model.
        places: blocks, as (part, layer).

    Raises:
        InputError: if there is no such block, or it has no rows.
        UnsupportedModelError: if they are quantised or offloaded.
    """
    return {
        place: plain_weight(module, f"W_out of layer {place[1]} of {place[0]}", to="edit")
        for place, module in _down_projections(model, places).items()
    }


def _down_projections(model: "HookedMultimodal", places: Iterable[_Place]) -> dict[_Place, nn.Module]:
    """The real modules whose weights hold the rows that the neurons of blocks write."""
    blocks: dict[Part, Any] = {}
    found = {}
    for part, layer in places:
        if part not in blocks:
            blocks[part] = model.part(part).blocks
        if not 0 <= layer < len(blocks[part]):
            raise InputError(
                f"The model has no layer {layer} in the part {part!r}; it has {len(blocks[part])} layers there."
            )
        mlp = blocks[part][layer].mlp
        if mlp is None:
            raise InputError(
                f"Layer {layer} of the part {part!r} is no plain MLP (a mixture of experts, or another mixer): its neurons have "
                "no rows that could be edited. Choose neurons of other layers."
            )
        found[part, layer] = mlp.down
    return found


def _check_rows(place: _Place, rows: torch.Tensor, width: int, weight: torch.Tensor) -> None:
    d_model, neurons = weight.shape
    missing = [row for row in rows.tolist() if not 0 <= row < neurons]
    if missing:
        raise InputError(
            f"The edit names neurons {missing[:8]} of layer {place[1]} of {place[0]}, which has {neurons} neurons."
        )
    if width != d_model:
        raise InputError(
            f"The edit's deltas are {width} wide, but rows of layer {place[1]} of {place[0]} have d_model={d_model}."
        )


def _state(base: nn.Module) -> _InForce:
    return _IN_FORCE.setdefault(base, _InForce())


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


def _add(state: _InForce, entry: _Entry) -> None:
    """Put an edit in force. Rows are kept before the first is written, so that `_remove` can undo it at any moment."""
    for place, (rows, _) in entry.places.items():
        weight = entry.weights[place]
        kept = state.kept.get(place)
        known = {} if kept is None else kept.slots
        new = [row for row in dict.fromkeys(rows.tolist()) if row not in known]
        own = weight.detach()[:, torch.tensor(new, dtype=torch.long, device=weight.device)].T.contiguous()
        slots = {**known, **{row: len(known) + n for n, row in enumerate(new)}}
        originals = own if kept is None else torch.cat([kept.originals, own])
        written = own if kept is None else torch.cat([kept.written, own])
        state.kept[place] = _Kept(weight, slots, originals, written)
    state.entries.append(entry)
    for place in entry.places:
        _write(state, place)


def _remove(state: _InForce, entries: Sequence[_Entry]) -> None:
    """Take edits out of force, those of them that are in it."""
    touched = {place for entry in entries for place in entry.places if place in state.kept}
    state.entries = [entry for entry in state.entries if not any(entry is other for other in entries)]
    for place in touched:
        _warn_of_changes(state.kept[place], place)
        _write(state, place)


@torch.no_grad()
def _write(state: _InForce, place: _Place) -> None:
    """Write a block's rows as the edits in force want them; rows that none of them touches are forgotten."""
    kept = state.kept[place]
    wide = torch.promote_types(kept.weight.dtype, torch.float32)
    total = torch.zeros(kept.originals.shape, dtype=wide, device=kept.weight.device)
    touched = torch.zeros(len(total), dtype=torch.bool, device=kept.weight.device)
    for entry in state.entries:
        if place in entry.places:
            rows, deltas = entry.places[place]
            slots = torch.tensor([kept.slots[row] for row in rows.tolist()], device=total.device)
            total.index_add_(0, slots, deltas.to(total))
            touched[slots] = True
    rows = torch.where(touched[:, None], (kept.originals + total).to(kept.weight.dtype), kept.originals)
    before = _version(kept.weight)
    kept.weight.index_copy_(1, torch.tensor(list(kept.slots), device=total.device), rows.T)
    own = state.versions.get(id(kept.weight))
    if own is not None:  # our own writing is no change of the model
        state.versions[id(kept.weight)] = own + _version(kept.weight) - before
    if touched.all():
        state.kept[place] = _Kept(kept.weight, kept.slots, kept.originals, rows)
        return
    left = {
        row: n for n, row in enumerate(row for row, stays in zip(kept.slots, touched.tolist(), strict=True) if stays)
    }
    if left:
        state.kept[place] = _Kept(kept.weight, left, kept.originals[touched], rows[touched])
    else:
        del state.kept[place]


def _warn_of_changes(kept: _Kept, place: _Place) -> None:
    """Say so if something else wrote to the rows while they were edited: it is lost now."""
    now = kept.weight.detach()[:, torch.tensor(list(kept.slots), device=kept.weight.device)].T
    if not torch.equal(now, kept.written):
        warnings.warn(
            f"Edited rows of layer {place[1]} of {place[0]} were changed by something else while the edit was in force "
            "(training, or an adapter merged into them); that is lost with the edit. Revert edits before changing weights.",
            stacklevel=5,
        )


@contextmanager
def rows_added(
    model: "HookedMultimodal", rows: Sequence[Neuron], deltas: Callable[[], Float[torch.Tensor, "row d_model"]]
) -> Iterator[None]:
    """Run as if deltas were added to rows, differentiably, without writing to a weight.

    A block's MLP then writes `sum_i q_i (row_i + delta_i)`, at every position; a gradient can flow to the deltas.

    Args:
        model: the hooked model.
        rows: neurons.
        deltas: called once per forward and block; gives what is added now.

    Raises:
        InputError: if a row cannot be edited, before anything is attached.
    """
    order = _by_place(rows)
    modules, weights = _down_projections(model, order), row_weights(model, order)
    for place, (indices, _) in order.items():
        _check_rows(place, indices, len(weights[place]), weights[place])
    handles = []
    try:
        for place, (indices, numbers) in order.items():
            hook = _added(indices, numbers, deltas)
            # before Hugging Face's recorders and our points, which must see the sum
            handles.append(modules[place].register_forward_hook(hook, prepend=True))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _added(indices: torch.Tensor, numbers: torch.Tensor, deltas: Callable[[], torch.Tensor]) -> Callable[..., Any]:
    def add(module: nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        active = args[0][..., indices.to(args[0].device)]
        added = deltas()[numbers.to(deltas().device)].to(active)
        return output + active @ added

    return add
