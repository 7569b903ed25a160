"""An edit: what is added to rows of weights, and where it comes from. A value; the model carries it out."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any

import torch
from jaxtyping import Float

from mmlens.core.contract import checked, checked_result
from mmlens.core.errors import InputError
from mmlens.core.identity import identity_of
from mmlens.core.kinds import Accepts
from mmlens.core.packing import UNSAVED
from mmlens.core.saved import Saved
from mmlens.core.unit_sets import Units, UnitsLike, as_units
from mmlens.core.view import Viewable
from mmlens.models.hooked import HookedMultimodal
from mmlens.models.identity import changes_in_force

if TYPE_CHECKING:
    import pandas as pd


@checked_result
@dataclass(frozen=True)
class Provenance:
    """Where an edit comes from.

    Attributes:
        model: class of the Hugging Face model.
        fingerprint: of the weights it was made for, without edits that were in force.
        method: e.g. `"through"`; `"sum"` for a composed edit.
        source, target: the words, where it is about words.
        settings: what the method was told, and what it found.
        seed: of its random numbers, if it draws any.
        losses: by name, one value per step of an optimisation.
        parts: the provenances of the edits that it is the sum of.
    """

    model: str
    fingerprint: str
    method: str
    source: str | None = None
    target: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    seed: int | None = None
    losses: Mapping[str, Sequence[float]] = field(default_factory=dict, repr=False)
    parts: tuple["Provenance", ...] = ()

    @property
    def words(self) -> str:
        """What it is about: `'red' -> 'blue'`, or nothing."""
        if self.parts:
            return ", ".join(part.words for part in self.parts if part.words)
        if self.source is None:
            return ""
        return repr(self.source) + ("" if self.target is None else f" -> {self.target!r}")


def provenance(model: HookedMultimodal, method: str, **more: Any) -> Provenance:
    """The provenance of an edit that is made for a model now.

    Args:
        model: the hooked model.
        method: see `Provenance`.
        more: further fields of `Provenance`.
    """
    settings = dict(more.pop("settings", {}))
    if model.active_adapters:
        settings["made with adapters"] = list(model.active_adapters)
    if model.edits:
        settings["made with edits in force"] = [repr(edit) for edit in model.edits]
    interventions = changes_in_force(model)["interventions"]
    if interventions:
        settings["made with interventions in force"] = f"{len(interventions)} ({identity_of(interventions)})"
    return Provenance(type(model.base).__name__, model.unedited_fingerprint, method, settings=settings, **more)


@checked_result
@dataclass(frozen=True, eq=False)
class Edit(Viewable, Saved):
    """Deltas for rows of MLP output weights: neuron i then writes `row_i + delta_i` per unit of its activation.

    Attributes:
        rows: the neurons whose rows change, each once.
        deltas: what is added to each, in float32 (float64 for models in float64).
        provenance: where it comes from.
        teach: makes the same edit of other rows; None of an edit that was read from a file, added, multiplied or carried over.

    Example:
        >>> import mmlens as mm
        >>> edit = mm.edits.scale_neurons(model, "L2.u7", factor=0.5)
        >>> with model.edited(edit):
        ...     text = model.caption(scene.image)
        >>> model.apply(edit).revert(edit) is model
        True
    """

    rows: Annotated[Units, Accepts(object)]  # __post_init__ reads them
    deltas: Float[torch.Tensor, "row d_model"]
    provenance: Provenance
    teach: "Callable[[Units], Edit] | None" = field(default=None, metadata=UNSAVED)

    def __post_init__(self) -> None:
        rows = as_units(self.rows)
        object.__setattr__(self, "rows", Units(rows))
        deltas = self.deltas.detach().cpu()
        deltas = deltas.to(torch.promote_types(deltas.dtype, torch.float32))
        object.__setattr__(self, "deltas", deltas)
        if not rows:
            raise InputError("An edit needs at least one row, found none.")
        if deltas.ndim != 2 or len(deltas) != len(rows):
            raise InputError(f"deltas must be [row={len(rows)} d_model], one per neuron, found {list(deltas.shape)}.")
        if len(self.rows) < len(rows):
            twice = sorted({unit for unit in rows if rows.count(unit) > 1})
            raise InputError(
                f"An edit names each row once, but {', '.join(map(str, twice[:8]))} come more often; add their deltas."
            )
        if not deltas.isfinite().all():
            wrong = [
                str(row) for row, finite in zip(self.rows, deltas.isfinite().all(1).tolist(), strict=True) if not finite
            ]
            raise InputError(f"The deltas of {', '.join(wrong[:8])} are not finite.")

    def __repr__(self) -> str:
        about = self.provenance
        words = f"{about.words}, " if about.words else ""
        blocks = ", ".join(self.rows.by_layer())
        return f"Edit({words}{about.method}: {len(self.rows)} rows in {blocks}; size {self.size:.3g})"

    def __getstate__(self) -> dict[str, Any]:
        """What is pickled and copied: all but how it is taught, which holds the model."""
        return {**self.__dict__, "teach": None}

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Edit):
            return NotImplemented
        is_same = list(self.rows) == list(other.rows) and self.provenance.fingerprint == other.provenance.fingerprint
        return is_same and torch.equal(self.deltas, other.deltas)

    def __hash__(self) -> int:
        return hash((self.rows, self.provenance.fingerprint))

    def __add__(self, other: "Edit") -> "Edit":
        """Both at once, as one edit; deltas of a row that both change are added.

        Raises:
            InputError: if the two were made for different models.
        """
        if not isinstance(other, Edit):
            return NotImplemented
        first, second = self.provenance, other.provenance
        if (first.model, first.fingerprint) != (second.model, second.fingerprint):
            raise InputError(
                f"These edits were made for different weights ({first.model} {first.fingerprint} and {second.model} "
                f"{second.fingerprint}) and cannot be added."
            )
        rows = self.rows | other.rows
        where = {row: number for number, row in enumerate(rows)}
        dtype = torch.promote_types(self.deltas.dtype, other.deltas.dtype)
        deltas = torch.zeros(len(rows), self.deltas.shape[1], dtype=dtype)
        for edit in (self, other):
            deltas.index_add_(0, torch.tensor([where[row] for row in edit.rows]), edit.deltas.to(dtype))
        parts = tuple(part for provenance in (first, second) for part in (provenance.parts or (provenance,)))
        return Edit(rows, deltas, Provenance(first.model, first.fingerprint, "sum", parts=parts))

    def __mul__(self, factor: float) -> "Edit":
        """The edit with its deltas multiplied: half of it, or `-1` times it, as its inverse."""
        settings = {**self.provenance.settings, "multiplied by": float(factor)}
        about = replace(self.provenance, settings=settings)
        return replace(self, deltas=self.deltas * factor, provenance=about, teach=None)

    __rmul__ = __mul__

    @property
    def size(self) -> float:
        """Frobenius norm of the deltas, in the unit of the weights."""
        return float(self.deltas.double().norm())

    def check(self, model: HookedMultimodal) -> None:
        """See that it was made for this model.

        Raises:
            InputError: if the class or the weights are other ones.
        """
        about = self.provenance
        identity = (type(model.base).__name__, model.unedited_fingerprint)
        if identity != (about.model, about.fingerprint):
            other = "a model of another class" if identity[0] != about.model else "other weights"
            raise InputError(
                f"{self!r} was made for {other}: {about.model} with fingerprint {about.fingerprint}, "
                f"but this is {identity[0]} with "
                f"{identity[1]}. Load the checkpoint that it was made for, make it anew for this one, or try it here all "
                "the same: edit.carried_to(model)."
            )

    @checked
    def carried_to(self, model: HookedMultimodal) -> "Edit":
        """The same deltas for other weights, e.g. a fine-tuned version; whether they do there what they did is yours to see."""
        settings = {**self.provenance.settings, "carried over from": self.provenance.fingerprint}
        about = replace(
            self.provenance, model=type(model.base).__name__, fingerprint=model.unedited_fingerprint, settings=settings
        )
        return replace(self, provenance=about, teach=None)

    @checked
    def retaught(self, rows: UnitsLike) -> "Edit":
        """The same edit of other rows, taught as this one was: the control that random, as active rows are.

        Args:
            rows: of the model that it was made for.

        Raises:
            InputError: for an edit of which it is not known how it was taught.

        Example:
            >>> import mmlens as mm
            >>> mm.edits.scale_neurons(model, "L2.u7", factor=0.5).retaught("L2.u8").rows
            Units(L2.u8)
        """
        if self.teach is None:
            raise InputError(
                f"It is not known how {self!r} was taught: it was read from a file, added, multiplied or carried over. Make it "
                "anew."
            )
        return self.teach(Units(as_units(rows)))

    def to_frame(self) -> "pd.DataFrame":
        """One line per row: part, stack, layer, neuron, and the norm of its delta."""
        import pandas as pd

        norms = self.deltas.norm(dim=1).tolist()
        lines = [(row.part, row.stack, row.layer, row.index, norm) for row, norm in zip(self.rows, norms, strict=True)]
        return pd.DataFrame(lines, columns=["part", "stack", "layer", "neuron", "norm"])
