"""What methods against hallucination do, beside the model as it is and random changes as strong."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from mmlens.analysis.scores.score import Difference, Score
from mmlens.analysis.statistics.significance import corrected
from mmlens.core.contract import checked, checked_result
from mmlens.core.errors import InputError
from mmlens.core.pictures import drawn_by
from mmlens.core.saved import Saved
from mmlens.core.view import Viewable

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure, SubFigure

#: A run's scores, by task and score.
TaskScores: TypeAlias = Mapping[str, Mapping[str, Score]]


@checked_result
@dataclass(frozen=True, repr=False)
class MitigationReport(Viewable, Saved):
    """Methods against hallucination, side by side.

    Attributes:
        plain: scores of the model as it is, by task and name.
        methods: scores with each method in force.
        controls: scores with its random controls, one per seed; none for methods that have no control of their strength.
        tokens: by run (`"plain"`, methods), how many new tokens, and seconds for all of them.
        settings: the methods, as they print.
        identity: what decided the values.

    Example:
        >>> import mmlens as mm
        >>> model = mm.lab.load()
        >>> sample = mm.Sample((scene.image,), "is there a moon", answer="yes", name="1")
        >>> report = mm.mitigation_report(
        ...     model, {"pope": [sample]}, methods={"contrast": "contrasted"}, seeds=[0], progress=False
        ... )
        >>> report.plain["pope"]["accuracy"].value in (0.0, 1.0)
        True
    """

    plain: TaskScores = field(repr=False)
    methods: Mapping[str, TaskScores] = field(repr=False)
    controls: Mapping[str, tuple[TaskScores, ...]] = field(repr=False)
    tokens: Mapping[str, tuple[float, float]]
    settings: Mapping[str, str]
    identity: Mapping[str, str] = field(default_factory=dict, compare=False)

    def __repr__(self) -> str:
        lines = [f"MitigationReport({len(self.methods)} methods, tasks {', '.join(self.plain)})"]
        for task, scores in self.plain.items():
            first = next(iter(scores))
            by_name = {"plain": self.plain, **self.methods}
            values = ", ".join(f"{name} {run[task][first].value:.3f}" for name, run in by_name.items())
            lines.append(f"  {task}, {first}: {values}")
        return "\n".join(lines)

    @checked
    def against_plain(self, method: str, task: str, score: str) -> Difference:
        """How far a method's score lies from the model's own, sample by sample.

        Raises:
            InputError: for a method, task or score that there is not.
        """
        return self._score(self._run(method), task, score).against(self._score(self.plain, task, score))

    @checked
    def against_controls(self, method: str, task: str, score: str) -> Difference | None:
        """How far a method's score lies from its random controls' mean, sample by sample; None where it has none.

        Raises:
            InputError: for a method, task or score that there is not.
        """
        found = self._score(self._run(method), task, score)
        mean = self.control(method, task, score)
        return None if mean is None else found.against(mean)

    @checked
    def control(self, method: str, task: str, score: str) -> Score | None:
        """The mean of a method's random controls; None where it has none.

        Raises:
            InputError: for a method, task or score that there is not.
        """
        self._run(method)
        draws = [self._score(run, task, score) for run in self.controls.get(method, ())]
        if not draws:
            return None
        amounts = np.mean([draw.amounts for draw in draws], axis=0)
        return replace(draws[0], amounts=amounts, weights=np.mean([draw.weights for draw in draws], axis=0))

    @checked
    def cost(self, method: str) -> float:
        """Seconds per new token, over those of the model as it is.

        Raises:
            InputError: for a method that there is not.
        """
        self._run(method)
        (count, seconds), (plain_count, plain_seconds) = self.tokens[method], self.tokens["plain"]
        return (seconds / max(count, 1)) / max(plain_seconds / max(plain_count, 1), 1e-12)

    def to_frame(self) -> "pd.DataFrame":
        """A row per method, task and score: its value beside the model's own and the random controls', with paired differences.

        `p` are of no difference from the model as it is, by sign flips of whole pictures, and `p_control` of none from the
        controls; both after Holm's correction over the methods of a score.
        """
        import pandas as pd

        rows = []
        for task, scores in self.plain.items():
            for name, plain in scores.items():
                of_score = [self._row(method, task, name, plain) for method in self.methods]
                for column in ("p", "p_control"):
                    for row, value in zip(
                        of_score, corrected(np.array([r[column] for r in of_score]), "holm"), strict=True
                    ):
                        row[column] = float(value)
                rows += of_score
        return pd.DataFrame(rows)

    def _row(self, method: str, task: str, name: str, plain: Score) -> dict[str, Any]:
        found = self._score(self.methods[method], task, name)
        interval, change = found.interval, found.against(plain)
        mean, beyond = self.control(method, task, name), self.against_controls(method, task, name)
        nothing = float("nan")
        return {
            "task": task, "score": name, "method": method, "value": found.value, "low": interval.low, "high": interval.high,
            "plain": plain.value, "difference": change.value.mean, "difference_low": change.value.low,
            "difference_high": change.value.high, "p": change.p, "control": nothing if mean is None else mean.value,
            "beyond_control": nothing if beyond is None else beyond.value.mean,
            "beyond_low": nothing if beyond is None else beyond.value.low,
            "beyond_high": nothing if beyond is None else beyond.value.high,
            "p_control": nothing if beyond is None else beyond.p, "cost": self.cost(method), "unit": found.unit,
        }  # fmt: skip

    @checked
    def plot(self, *, figure: "Figure | SubFigure | None" = None) -> "Figure":
        """Each score's change by each method, with its interval, beside its random controls; a panel per score."""
        return drawn_by("mitigation.plot_mitigation")(self, figure=figure)

    def _run(self, method: str) -> TaskScores:
        if method not in self.methods:
            raise InputError(
                f"There is no method {method!r} in the report; there are {', '.join(map(repr, self.methods))}."
            )
        return self.methods[method]

    def _score(self, run: TaskScores, task: str, name: str) -> Score:
        if task not in run or name not in run[task]:
            known = ", ".join(f"{t}: {', '.join(scores)}" for t, scores in run.items())
            raise InputError(f"There is no score {name!r} of {task!r} in the report; there are {known}.")
        return run[task][name]
