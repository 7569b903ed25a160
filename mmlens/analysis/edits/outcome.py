"""What edits did: every prompt before and after, and the figures made of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, get_args

import numpy as np

from mmlens.analysis.edits.cases import EditCase, EditFacts, Role
from mmlens.analysis.statistics.intervals import Interval, Standing, draws_interval, mean_interval, standing
from mmlens.core.contract import checked, checked_result
from mmlens.core.errors import InputError
from mmlens.core.pictures import drawn_by
from mmlens.core.saved import Saved
from mmlens.core.view import Viewable

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure, SubFigure


@checked_result
@dataclass(frozen=True)
class EditReport(Viewable, Saved):
    """What edits did to the answers they are about, and to the others.

    Attributes:
        source, target: the words; no target for edits that only remove a word.
        edits: the edits that were given, each followed by the same edit of matched rows.
        cases: every prompt under every edit, before and after.
        notes: what could not be asked, and why.
        identity: what decided the values: see `mmlens.models.identity.run_identity`; empty where it is not known.
    """

    source: str
    target: str | None
    edits: tuple[EditFacts, ...]
    cases: tuple[EditCase, ...] = field(repr=False)
    notes: tuple[str, ...] = ()
    identity: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)

    def __repr__(self) -> str:
        words = repr(self.source) + ("" if self.target is None else f" -> {self.target!r}")
        roles = [role for role in get_args(Role) if self.groups(role)]
        tables = [self.summary(role).drop(columns="role").to_string(index=False) for role in roles]
        reasons = [
            f"No matched rows beside {fact.name!r}: {fact.matched_by}."
            for fact in self.edits
            if fact.matched_by and fact.control_of is None and self.control(fact.name) is None
        ]
        notes = ["\n".join([*reasons, *self.notes])] if reasons or self.notes else []
        n_edits = sum(fact.control_of is None for fact in self.edits)
        return "\n\n".join([f"EditReport({words}: {n_edits} edits, {len(self.cases)} answers)", *tables, *notes])

    @checked
    def interval(self, edit: str, group: str, value: Callable[[EditCase], float | None]) -> Interval:
        """Mean and 95% interval of a number over one set of prompts: of the mean, over pictures; of several draws, over these."""
        return self._interval(edit, [case for case in self._cases(edit) if case.group == group], value)

    def _cases(self, edit: str) -> list[EditCase]:
        return [case for case in self.cases if case.edit == edit]

    def _interval(self, edit: str, cases: Sequence[EditCase], value: Callable[[EditCase], float | None]) -> Interval:
        pairs = _valued(cases, value)
        if self._draws(edit) == 1:
            return mean_interval([number for number, _ in pairs], groups=_labels([case.picture for _, case in pairs]))
        return draws_interval(_draw_means(pairs))

    def _draws(self, edit: str) -> int:
        return next((fact.draws for fact in self.edits if fact.name == edit), 1)

    @checked
    def control(self, edit: str) -> str | None:
        """The name under which an edit is repeated in matched rows; None if it is not.

        Raises:
            InputError: for an edit that the report does not have.
        """
        names = [fact.name for fact in self.edits]
        if edit not in names:
            raise InputError(f"The report has no edit {edit!r}; it has {', '.join(names)}.")
        return next((fact.name for fact in self.edits if fact.control_of == edit), None)

    @checked
    def standing(self, edit: str, group: str, value: Callable[[EditCase], float | None]) -> Standing:
        """Where the mean of a number lies among those of the same edit in matched rows, draw by draw.

        Raises:
            InputError: if there are no matched rows for the edit in this report.
        """
        name = self.control(edit)
        if name is None:
            reason = next(fact.matched_by for fact in self.edits if fact.name == edit) or "matched=0 was asked for"
            raise InputError(f"There are no matched rows beside {edit!r}: {reason}.")
        cases = [case for case in self._cases(name) if case.group == group]
        return standing(self.interval(edit, group, value).mean, _draw_means(_valued(cases, value)))

    @checked
    def groups(self, role: Role) -> list[str]:
        """Names of the sets of prompts of a role."""
        return list(dict.fromkeys(case.group for case in self.cases if case.role == role))

    @checked
    def success(self, edit: str, group: str) -> Interval:
        """Share of the prompts that said the source and now say the target; of consistency sets that agree with the edit now."""
        return self.interval(edit, group, lambda case: case.success)

    @checked
    def changed(self, edit: str, group: str | None = None) -> Interval:
        """Share of control answers that are other ones now, in one set or (None) in all."""
        cases = [
            case for case in self._cases(edit) if case.group == group or (group is None and case.role == "control")
        ]
        return self._interval(edit, cases, lambda case: case.changed)

    @checked
    def changed_pictures(self, edit: str, group: str) -> Interval:
        """Share of the pictures of a set of controls of which any answer is another one now."""
        worst: dict[tuple[int, str], EditCase] = {}
        for case in self._cases(edit):
            key = (case.draw, case.picture)
            if case.group == group and (key not in worst or case.changed):
                worst[key] = case
        return self._interval(edit, list(worst.values()), lambda case: case.changed)

    @checked
    def summary(self, role: Role | None = None) -> "pd.DataFrame":
        """One line per edit and set of prompts, each figure with its 95% interval (of several draws: the draws' own).

        Columns for targets: success, exact (the wanted answer to the last word), the target's and the source's probability
        before and after. For consistency: the share of answers that agree with the edit, before and after. For controls: share
        of answers, and of pictures, that changed. For targets and controls: KL in nats, and the share of true answers before,
        after, and their paired difference, where the truth is known. Beside success, where the same edit was taught to
        matched rows: how many draws of these do as well.

        Args:
            role: only the targets, only the consistency sets, or only the controls.
        """
        import pandas as pd

        roles: tuple[Role, ...] = get_args(Role) if role is None else (role,)
        lines = [
            {"edit": fact.label, "size": round(fact.size, 2), **self._line(fact.name, group, role_name)}
            for fact in self.edits
            for role_name in roles
            for group in self.groups(role_name)
        ]
        return pd.DataFrame(lines).fillna("")

    def _line(self, edit: str, group: str, role: Role) -> dict[str, str]:
        def of(value: Callable[[EditCase], float | None]) -> str:
            return str(self.interval(edit, group, value))

        line: dict[str, str] = {"role": role, "prompts": group}
        if role == "target":
            was_said = [case.said_before for case in self._cases(edit) if case.group == group and not case.draw]
            line["said before"] = f"{sum(was_said)} of {len(was_said)}"
            line["success"] = of(lambda case: case.success)
            line |= self._matched(edit, group)
            if self.target is not None:
                line["exact"] = of(lambda case: case.exact if case.said_before else None)
                line["p(target)"] = _before_after(of, lambda case: case.p_target)
            line["p(source)"] = _before_after(of, lambda case: case.p_source)
        elif role == "consistency":
            line["agree, before"] = of(lambda case: case.right and case.right[0])
            line["agree, after"] = of(lambda case: case.success)
            return line | self._matched(edit, group)
        else:
            line["answers changed"] = of(lambda case: case.changed)
            line["pictures changed"] = str(self.changed_pictures(edit, group))
        line["KL"] = of(lambda case: case.kl)
        truths = [case.right for case in self._cases(edit) if case.group == group and case.right]
        if truths:
            before, after = np.array(truths, dtype=float).mean(0)
            line["right"] = f"{before:.3f} -> {after:.3f}"
            line["right, change"] = of(lambda case: case.right and float(case.right[1]) - float(case.right[0]))
        return line

    def _matched(self, edit: str, group: str) -> dict[str, str]:
        """How many draws of matched rows have at least the success of an edit."""
        if self.control(edit) is None:
            return {}
        place = self.standing(edit, group, lambda case: case.success)
        return {"matched rows as good": f"{place.at_least} of {place.draws.count} draws"}

    def to_frame(self) -> "pd.DataFrame":
        """One line per case: the prompt, the answers before and after, and what became of them."""
        import pandas as pd

        rows = [{**asdict(case), "changed": case.changed, "exact": case.exact} for case in self.cases]
        frame = pd.DataFrame(rows)
        for name in ("p_source", "p_target", "right"):
            for number, when in enumerate(("before", "after")):
                frame[f"{name}_{when}"] = [None if pair is None else pair[number] for pair in frame[name]]
        return frame.drop(columns=["p_source", "p_target", "right"])

    @checked
    def plot(self, *, figure: "Figure | SubFigure | None" = None) -> "Figure":
        """The frontier: success against the share of control answers that changed, one panel per set of target prompts.

        Args:
            figure: a matplotlib figure or subfigure to draw into; a new one by default.
        """
        return drawn_by("edits.plot_frontier")(self, figure=figure)


def _valued(cases: Sequence[EditCase], value: Callable[[EditCase], float | None]) -> list[tuple[float, EditCase]]:
    """A number of every case for which it is known."""
    return [(number, case) for case in cases if (number := value(case)) is not None]


def _draw_means(pairs: Sequence[tuple[float, EditCase]]) -> list[float]:
    """The mean of a number over each draw."""
    by_draw: dict[int, list[float]] = {}
    for number, case in pairs:
        by_draw.setdefault(case.draw, []).append(number)
    return [float(np.mean(numbers)) for numbers in by_draw.values()]


def _before_after(
    of: Callable[[Callable[[EditCase], float | None]], str], pair: Callable[[EditCase], tuple[float, float] | None]
) -> str:
    def only(side: int) -> Callable[[EditCase], float | None]:
        def value(case: EditCase) -> float | None:
            numbers = pair(case)
            return None if numbers is None else numbers[side]

        return value

    return " -> ".join(of(only(side)) for side in (0, 1))


def _labels(pictures: Sequence[str]) -> list[int]:
    """The pictures as numbers."""
    numbers: dict[str, int] = {}
    return [numbers.setdefault(picture, len(numbers)) for picture in pictures]
