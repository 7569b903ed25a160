"""What edits did: every prompt before and after, and the figures made of them."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from mmlens.analysis.statistics import Interval, draws_interval, mean_interval
from mmlens.core.contract import checked, checked_result
from mmlens.core.kinds import PathLike
from mmlens.core.pictures import drawn_by
from mmlens.core.results import JsonKind

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure, SubFigure


_FILE = JsonKind(
    "mmlens.edits.EditReport",
    2,
    "edit report",
    {"source": str, "target": str | None, "edits": list[dict], "cases": list[dict]},
)
Role = Literal["target", "control"]


@dataclass(frozen=True)
class EditCase:
    """One prompt under one edit.

    Attributes:
        edit: name of the edit.
        role: whether the source is to become the target here, or everything is to stay.
        group: name of the set of prompts.
        picture: which picture (or, without one, which text); cases of one picture are not independent.
        prompt: what was asked.
        before, after: the model's answers.
        wanted: the answer before with the source replaced; None for controls, and where no word was to take its place.
        said_before: whether the source was said before.
        success: the source is gone, and the target is there (or no target was wanted); None for controls, and where the
            source was not said before.
        kl: `KL(before || after)` in nats, mean over the tokens of the answer before.
        p_source, p_target: probabilities before and after where the source was first said; None elsewhere.
        right: whether the answer was the true one, before and after; None if the truth is not known.
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
    """

    name: str
    method: str
    rows: int
    size: float
    penalty: float | None = None
    draws: int = 1

    @property
    def label(self) -> str:
        """The name, with the number of draws where there are several."""
        return self.name if self.draws == 1 else f"{self.name} ({self.draws} draws)"


@checked_result
@dataclass(frozen=True)
class EditReport:
    """What edits did to the answers they are about, and to the others.

    Attributes:
        source, target: the words; no target for edits that only remove a word.
        edits: the edits.
        cases: every prompt under every edit, before and after.
    """

    source: str
    target: str | None
    edits: tuple[EditFacts, ...]
    cases: tuple[EditCase, ...] = field(repr=False)

    def __repr__(self) -> str:
        words = repr(self.source) + ("" if self.target is None else f" -> {self.target!r}")
        tables = (self.summary(role).drop(columns="role").to_string(index=False) for role in ("target", "control"))
        return f"EditReport({words}: {len(self.edits)} edits, {len(self.cases)} answers)\n" + "\n\n".join(tables)

    @checked
    def interval(self, edit: str, group: str, value: Callable[[EditCase], float | None]) -> Interval:
        """Mean and 95% interval of a number over one set of prompts: of the mean, over pictures; of several draws, over these."""
        return self._interval(edit, [case for case in self._cases(edit) if case.group == group], value)

    def _cases(self, edit: str) -> list[EditCase]:
        return [case for case in self.cases if case.edit == edit]

    def _interval(self, edit: str, cases: Sequence[EditCase], value: Callable[[EditCase], float | None]) -> Interval:
        pairs = [(number, case) for case in cases if (number := value(case)) is not None]
        if self._draws(edit) == 1:
            return mean_interval([number for number, _ in pairs], groups=_labels([case.picture for _, case in pairs]))
        by_draw: dict[int, list[float]] = {}
        for number, case in pairs:
            by_draw.setdefault(case.draw, []).append(number)
        return draws_interval([float(np.mean(numbers)) for numbers in by_draw.values()])

    def _draws(self, edit: str) -> int:
        return next((fact.draws for fact in self.edits if fact.name == edit), 1)

    @checked
    def groups(self, role: Role) -> list[str]:
        """Names of the sets of prompts of a role."""
        return list(dict.fromkeys(case.group for case in self.cases if case.role == role))

    @checked
    def success(self, edit: str, group: str) -> Interval:
        """Share of the prompts that said the source and now say the target."""
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
        before and after. For controls: share of answers, and of pictures, that changed. For both: KL in nats, and the
        share of true answers before, after, and their paired difference, where the truth is known.

        Args:
            role: only the targets, or only the controls.
        """
        import pandas as pd

        roles: tuple[Role, ...] = ("target", "control") if role is None else (role,)
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
            if self.target is not None:
                line["exact"] = of(lambda case: case.exact if case.said_before else None)
                line["p(target)"] = _before_after(of, lambda case: case.p_target)
            line["p(source)"] = _before_after(of, lambda case: case.p_source)
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

    @checked
    def save(self, path: PathLike) -> Path:
        """Write it as JSON, whole or not at all."""
        return _FILE.write(path, asdict(self))

    @classmethod
    @checked
    def load(cls, path: PathLike) -> "EditReport":
        """Read a report that was saved.

        Raises:
            InputError: if the file is not there, or holds no report.
        """
        content = _FILE.read(path)
        edits = tuple(EditFacts(**fact) for fact in content["edits"])
        return cls(content["source"], content["target"], edits, tuple(_case(case) for case in content["cases"]))


def _case(fields: dict) -> EditCase:
    pairs = {name: None if fields[name] is None else tuple(fields[name]) for name in ("p_source", "p_target", "right")}
    return EditCase(**{**fields, **pairs})


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
