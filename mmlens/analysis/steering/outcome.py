"""What steering did: every answer before and after, and the figures made of them."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, cast

import numpy as np

from mmlens.analysis.statistics.intervals import Interval, mean_interval, paired_difference
from mmlens.analysis.steering.cases import SteeringCase, SteeringFacts
from mmlens.analysis.steering.controls import ControlKind, word_verdict
from mmlens.analysis.steering.diversity import Diversity, diversity
from mmlens.core.answer_text import normalised, says
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
class SteeringReport(Viewable, Saved):
    """What interventions did to a model's answers.

    Attributes:
        interventions: those that were asked for, each followed by its controls with other vectors.
        cases: every prompt under every intervention, before and after.
        identity: what decided the values: see `mmlens.models.identity.run_identity`; empty where it is not known.
    """

    interventions: tuple[SteeringFacts, ...]
    cases: tuple[SteeringCase, ...] = field(repr=False)
    identity: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)

    def __repr__(self) -> str:
        n_interventions = sum(fact.control_of is None for fact in self.interventions)
        return (
            f"SteeringReport({n_interventions} interventions, {len(self.interventions) - n_interventions} controls, "
            f"{len(self.cases)} answers)\n{self.summary().to_string(index=False)}"
        )

    @property
    def groups(self) -> tuple[str, ...]:
        """Names of the sets of prompts."""
        return tuple(dict.fromkeys(case.group for case in self.cases))

    @checked
    def of(self, intervention: str, group: str | None = None) -> list[SteeringCase]:
        """The cases of one intervention, in one set of prompts or (None) in all.

        Raises:
            InputError: for a name that the report does not have.
        """
        names = [fact.name for fact in self.interventions]
        if intervention not in names or (group is not None and group not in self.groups):
            raise InputError(
                f"The report has no {intervention!r}{'' if group is None else f' on {group!r}'}; it has {', '.join(names)} on "
                f"{', '.join(self.groups)}."
            )
        return [case for case in self.cases if case.intervention == intervention and group in (None, case.group)]

    @checked
    def mean(
        self, intervention: str, value: Callable[[SteeringCase], float | None], group: str | None = None
    ) -> Interval:
        """Mean and 95% interval of a number (or truth value) of every case; None is left out, whole pictures count as drawn."""
        pairs = [(number, case.shown) for case in self.of(intervention, group) if (number := value(case)) is not None]
        return mean_interval([number for number, _ in pairs], groups=np.array([picture for _, picture in pairs]))

    @checked
    def changed(self, intervention: str, group: str | None = None) -> Interval:
        """Share of answers that are other ones now."""
        return self.mean(intervention, lambda case: case.changed, group)

    @checked
    def became(
        self, intervention: str, source: str | Sequence[str], target: str | Sequence[str], group: str | None = None
    ) -> Interval:
        """Of the answers that said one of the source's words, the share that now say one of the target's and none of them."""

        def value(case: SteeringCase) -> float | None:
            return (says(case.after, target) and not says(case.after, source)) if says(case.before, source) else None

        return self.mean(intervention, value, group)

    @checked
    def said(
        self, intervention: str, phrases: str | Sequence[str], group: str | None = None
    ) -> tuple[Interval, Interval]:
        """Share of the answers that say one of some words, before and after."""
        before = self.mean(intervention, lambda case: says(case.before, phrases), group)
        return before, self.mean(intervention, lambda case: says(case.after, phrases), group)

    @checked
    def score_change(self, intervention: str, group: str | None = None) -> Interval:
        """Score after minus score before, case by case: 0 is no damage."""
        return self.mean(intervention, lambda case: case.score and case.score[1] - case.score[0], group)

    @checked
    def beyond_control(
        self,
        intervention: str,
        value: Callable[[SteeringCase], float | None],
        group: str | None = None,
        *,
        control: ControlKind = "isotropic",
    ) -> Interval:
        """How far a number goes beyond that under a control of equal norm, case by case (mean over seeds).

        Args:
            intervention: its name.
            value: of a case; None where it has none, whatever the vector.
            group: of one set of prompts; of all by default.
            control: `"words"`, `"covariance"` or `"isotropic"`.

        Raises:
            InputError: if the intervention has no such control.
        """
        controls = self._controls(intervention, control)
        if not controls:
            kinds = sorted({fact.kind for fact in self.interventions if fact.control_of == intervention})
            raise InputError(
                f"{intervention!r} has no {control} control in this report; it has {', '.join(kinds) or 'none'}: ask for one "
                "with controls=. Words are known from words=, or if the steered answers are other ones."
            )
        own_cases = self.of(intervention, group)
        numbers = [[value(case) for case in self.of(name, group)] for name in (intervention, *controls)]
        rows = [
            (float(steered_value), sum(map(float, others)) / len(others), case.shown)
            for case, steered_value, *others in zip(own_cases, *numbers, strict=True)
            if steered_value is not None and None not in others
        ]
        return paired_difference(
            [steered_value for steered_value, _, _ in rows],
            [other for _, other, _ in rows],
            groups=np.array([shown for *_, shown in rows]),
        )

    def _controls(self, intervention: str, kind: str) -> list[str]:
        return [fact.name for fact in self.interventions if (fact.control_of, fact.kind) == (intervention, kind)]

    @checked
    def effect(self, intervention: str) -> Callable[[SteeringCase], bool | None]:
        """What an intervention is judged by: whether an answer with the words steered from has those steered to, if they were
        given; else whether it is another one."""
        words = next((fact.words for fact in self.interventions if fact.name == intervention), None)
        if words is None:
            return lambda case: case.changed
        source, target = words
        return lambda case: (
            (says(case.after, target) and not says(case.after, source)) if says(case.before, source) else None
        )

    @checked
    def verdict(
        self,
        intervention: str,
        value: Callable[[SteeringCase], float | None] | None = None,
        group: str | None = None,
    ) -> str:
        """Whether a vector is more than word writing: `"more than the words"` only where its paired difference from the
        unembedding difference lies above zero.

        Args:
            intervention: its name.
            value: what it is judged by; `.effect(intervention)` by default.
            group: of one set of prompts; of all by default.

        Returns:
            `"more than the words"`, `"no more than the words"`, or `"no words to compare with"`.
        """
        if not self._controls(intervention, "words"):
            return word_verdict(None)
        return word_verdict(
            self.beyond_control(intervention, value or self.effect(intervention), group, control="words")
        )

    @checked
    def counts(self, intervention: str, group: str | None = None) -> "pd.DataFrame":
        """How often each (normalised) answer is given before and after; those that change most first."""
        import pandas as pd

        cases = self.of(intervention, group)
        before = Counter(normalised(case.before) for case in cases)
        after = Counter(normalised(case.after) for case in cases)
        answers = sorted({*before, *after}, key=lambda answer: (-abs(after[answer] - before[answer]), answer))
        columns = {"before": [before[answer] for answer in answers], "after": [after[answer] for answer in answers]}
        frame = pd.DataFrame({"answer": answers, **columns})
        return frame.assign(change=frame["after"] - frame["before"])

    @checked
    def diversity(self, intervention: str, group: str | None = None) -> tuple[Diversity, Diversity]:
        """How much the texts say, before and after."""
        cases = self.of(intervention, group)
        return diversity([case.before for case in cases]), diversity([case.after for case in cases])

    def summary(self) -> "pd.DataFrame":
        """One line per intervention and set of prompts: share of answers changed, score before and after with the interval of
        its change, distinct words and repetitions before and after; and how far the effect goes beyond each control's.
        """
        import pandas as pd

        return pd.DataFrame([self._line(fact, group) for fact in self.interventions for group in self.groups])

    def _line(self, fact: SteeringFacts, group: str) -> dict[str, object]:
        cases = self.of(fact.name, group)
        line: dict[str, object] = {"intervention": fact.name, "prompts": group, "answers": len(cases)}
        line["changed"] = str(self.changed(fact.name, group))
        line |= self._beside(fact, group)
        scores = [case.score for case in cases if case.score is not None]
        if scores:
            before, after = (sum(pair[n] for pair in scores) / len(scores) for n in (0, 1))
            line["score"] = f"{before:.3f} -> {after:.3f}"
            line["score, change"] = str(self.score_change(fact.name, group))
        old, new = self.diversity(fact.name, group)
        line["distinct-2"] = f"{old.distinct_2:.2f} -> {new.distinct_2:.2f}"
        line["repeated"] = f"{old.repeated:.2f} -> {new.repeated:.2f}"
        line["looped"] = f"{old.looped:.2f} -> {new.looped:.2f}"
        line["words"] = f"{old.length:.1f} -> {new.length:.1f}"
        return line

    def _beside(self, fact: SteeringFacts, group: str) -> dict[str, object]:
        """How far the effect of what was asked for goes beyond each control's, and the verdict."""
        kinds = dict.fromkeys(cast("ControlKind", other.kind) for other in self.interventions if other.control_of)
        cells: dict[str, object] = {}
        for kind in kinds:
            has_control = fact.control_of is None and self._controls(fact.name, kind)
            beyond = (
                self.beyond_control(fact.name, self.effect(fact.name), group, control=kind) if has_control else None
            )
            cells[f"beyond {kind}"] = "" if beyond is None or not beyond.count else str(beyond)
        verdict = self.verdict(fact.name, group=group) if cells.get("beyond words") else ""
        return cells | ({"verdict": verdict} if "words" in kinds else {})

    def to_frame(self) -> "pd.DataFrame":
        """One line per case."""
        import pandas as pd

        rows = []
        for case in self.cases:
            before, after = case.score or (None, None)
            row = {**asdict(case), "changed": case.changed, "score_before": before, "score_after": after}
            del row["score"]
            rows.append(row)
        return pd.DataFrame(rows)

    @checked
    def plot(self, *, figure: "Figure | SubFigure | None" = None) -> "Figure":
        """Answers changed and scores, per set of prompts, beside the controls.

        Args:
            figure: a matplotlib figure or subfigure to draw into; a new one by default.
        """
        return drawn_by("steering.plot_report")(self, figure=figure)
