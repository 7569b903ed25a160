"""What an edit report holds: every answer before and after, and what is known of each edit."""

from dataclasses import dataclass
from typing import Literal

Role = Literal["target", "consistency", "control"]


@dataclass(frozen=True)
class EditCase:
    """One prompt under one edit.

    Attributes:
        edit: name of the edit.
        role: whether the source is to become the target here, the answer to agree with that, or everything to stay.
        group: name of the set of prompts.
        picture: which picture (or, without one, which text); cases of one picture are not independent.
        prompt: what was asked.
        before, after: the model's answers.
        wanted: the answer before with the source replaced, or the one that agrees with the edit; None for controls, and where
            no word was to take its place.
        said_before: whether the source was said before.
        success: the source is gone, and the target is there (or no target was wanted), or the answer agrees with the edit;
            None for controls, and where the source was not said before.
        kl: `KL(before || after)` in nats, mean over the tokens of the answer before.
        p_source, p_target: probabilities before and after where the source was first said; None elsewhere.
        right: whether the answer was the true one, before and after, or the one that agrees with the edit; None if that is
            not known.
        draw: which of several edits of one name it is: edits of random rows.
    """

    edit: str
    role: Role
    group: str
    picture: str
    prompt: str
    before: str
    after: str
    wanted: str | None
    said_before: bool
    success: bool | None
    kl: float
    p_source: tuple[float, float] | None = None
    p_target: tuple[float, float] | None = None
    right: tuple[bool, bool] | None = None
    draw: int = 0

    @property
    def changed(self) -> bool:
        """Whether the answer is another one."""
        return self.before != self.after

    @property
    def exact(self) -> bool | None:
        """Whether the answer after is the wanted one to the last word; None where none was wanted."""
        return None if self.wanted is None else self.after == self.wanted


@dataclass(frozen=True)
class EditFacts:
    """What the report says of an edit itself.

    Attributes:
        name: as in the report.
        method: as in its provenance.
        rows: how many rows it changes.
        size: Frobenius norm of the change; of several draws their mean.
        penalty: the weight of its penalty, where it has one: edits of one method are joined in that order.
        draws: how many edits of random rows stand under this name; their figures are the mean over them and the interval in
            which 95% of them lie.
        control_of: the edit that this one repeats in other, matched rows; None for one that was given.
        matched_by: what those rows are matched by; of an edit without them, why there are none.
    """

    name: str
    method: str
    rows: int
    size: float
    penalty: float | None = None
    draws: int = 1
    control_of: str | None = None
    matched_by: str = ""

    @property
    def label(self) -> str:
        """The name, with the number of draws where there are several."""
        return self.name if self.draws == 1 else f"{self.name} ({self.draws} draws)"
