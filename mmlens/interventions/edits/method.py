"""The contract of methods that find deltas of rows for an edit about words, and their registry."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, TypeAlias

import torch
from jaxtyping import Float

from mmlens.core.errors import InputError
from mmlens.core.gradients import require_autograd
from mmlens.core.kinds import Accepts, Must
from mmlens.core.registry import Method, Registry
from mmlens.core.unit_sets import Units
from mmlens.interventions.edits.examples import EditExample
from mmlens.models.hooked import HookedMultimodal
from mmlens.models.word_forms import WordForms

#: A probability, or a share that has to be reached.
Enough: TypeAlias = Annotated[float, Must("above 0 and at most 1", lambda value: 0 < value <= 1)]


@dataclass(frozen=True)
class WordTask:
    """What an edit is to achieve.

    Attributes:
        model: the hooked model.
        rows: whose deltas.
        examples: answers in which the source is said.
        controls: answers that are to stay.
        consistency: answers of other questions, as they would be if the edit were true.
        source: the word that is said now, in its forms.
        target: what is to be said there; None for anything but the source.
    """

    model: HookedMultimodal
    rows: Units
    examples: Sequence[EditExample]
    controls: Sequence[EditExample]
    source: WordForms
    target: WordForms | None
    consistency: Sequence[EditExample] = ()


@dataclass(frozen=True)
class MethodDeltas:
    """What a method found.

    Attributes:
        deltas: of the rows.
        facts: what was found on the way, e.g. why it stopped.
        losses: by name, one value per step of an optimisation.
    """

    deltas: Float[torch.Tensor, "row d_model"]
    facts: dict[str, Any]
    losses: dict[str, list[float]] = field(default_factory=dict)


@dataclass(frozen=True)
class EditMethod(Method):
    """How rows are moved so that a word is said in the place of another, or no more.

    `needs` are among `"gradients"`, `"a target word"`, `"rows that write words"` (of the language
    model's stream), `"no controls"` (it sees the source's places alone) and `"consistency"` (questions with the answers that
    agree with the edit, which other methods have no use for).
    """

    #: As the edit's provenance has it.
    title: ClassVar[str]

    def check(self, rows: Units, *, controls: bool, target: bool, consistency: bool = False) -> None:
        """Refuse what the method cannot do, before any forward pass.

        Args:
            rows: of the edit.
            controls: whether there are answers that are to stay.
            target: whether there is a word for the source's place.
            consistency: whether there are questions with answers that agree with the edit.

        Raises:
            InputError: if a need is not met.
        """
        if "gradients" in self.needs:
            require_autograd("An edit that is optimised through the network")
        if "a target word" in self.needs and not target:
            others = " or ".join(map(repr, EDIT_METHODS.without("a target word")))
            raise InputError(
                f"method={self.name!r} moves rows towards a target word, which there is none of; use {others}."
            )
        if "no controls" in self.needs and controls:
            others = " or ".join(map(repr, EDIT_METHODS.without("no controls")))
            raise InputError(
                f"method={self.name!r} has no use for controls: it sees the source's places alone. Leave them out, or "
                f"use {others}."
            )
        if consistency != ("consistency" in self.needs):
            others = " or ".join(map(repr, EDIT_METHODS.needing("consistency")))
            raise InputError(
                f"method={self.name!r} does not teach consistency: leave it out, or use {others}."
                if consistency
                else f"method={self.name!r} teaches other questions to agree with the edit: pass consistency=[(batch, answers)]."
            )
        elsewhere = [str(row) for row in rows if (row.part, row.stack) != ("language", "blocks")]
        if "rows that write words" in self.needs and elsewhere:
            others = " or ".join(map(repr, EDIT_METHODS.without("rows that write words")))
            raise InputError(
                f"{', '.join(elsewhere[:5])} do not write into the stream that words are read from; use method={others} for them."
            )

    def editable(self, model: HookedMultimodal, rows: Units) -> Units:
        """Those of some rows that the method changes; all of them by default."""
        return rows

    def deltas(self, task: WordTask, *, progress: bool) -> MethodDeltas:
        """Find the deltas. No weight is written.

        Args:
            task: what is to be achieved.
            progress: show a progress bar where there are many steps.
        """
        raise NotImplementedError


EDIT_METHODS: Registry[EditMethod] = Registry("editing words", EditMethod, verb="mm.edits.replace_token")
#: A method by name, or its settings.
EditChoice: TypeAlias = Annotated[str | EditMethod, Accepts(Any), EDIT_METHODS.condition]
