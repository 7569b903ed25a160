"""What the stages about steering share: samples in two halves that share no picture, vectors, answers with them, and rows."""

from collections.abc import Callable, Mapping, Sequence

from mmlens.analysis.samples.sample import Sample
from mmlens.analysis.scores.score import ScoreTable
from mmlens.analysis.steering.outcome import SteeringReport
from mmlens.analysis.steering.report import steering_report
from mmlens.analysis.steering.vectors import steering_vector
from mmlens.analysis.store.states import States
from mmlens.analysis.study_table import StudyValue
from mmlens.core.errors import InputError
from mmlens.interventions.steering import Steer
from mmlens.interventions.steering_vector import SteeringVector
from mmlens.recipes.sources import Samples, halves
from mmlens.recipes.stage import UnanswerableError
from mmlens.recipes.study import Study

#: Samples that vectors are made of, and those that are answered with them.
Halves = tuple[list[Sample], list[Sample]]


def parted(samples: Samples) -> Halves:
    """Samples in two halves that share no picture."""
    first, second = halves(samples)
    return [samples[number] for number in first], [samples[number] for number in second]


def difference(states: States, source: Sequence[str], target: Sequence[str]) -> SteeringVector:
    """The vector from the mean of the states of some words to that of others.

    Raises:
        UnanswerableError: if there are none of either.
    """
    sides = [[row for row, token in enumerate(states.tokens) if token in words] for words in (source, target)]
    if not all(sides):
        lacking = " and ".join("/".join(words) for words, side in zip((source, target), sides) if not side)
        raise UnanswerableError(f"No state says {lacking}: the model does not answer so.")
    return steering_vector(states[sides[0]], states[sides[1]])


def possible(
    names: Sequence[str], make: Callable[[str], SteeringVector]
) -> tuple[dict[str, SteeringVector], list[str]]:
    """The vectors that can be made, and why others cannot.

    Raises:
        UnanswerableError: if none can.
    """
    vectors, reasons = {}, []
    for name in names:
        try:
            vectors[name] = make(name)
        except InputError as error:
            reasons.append(f"{name} is left out: {' '.join(str(error).split())}")
    if not vectors:
        raise UnanswerableError(" ".join(reasons))
    return vectors, reasons


def steered(study: Study, name: str, arms: Mapping[str, Steer], samples: Samples, tokens: int) -> SteeringReport:
    """Answers with and without each vector, one pass without for all; a file keeps them."""
    return steering_report(
        study.model, dict(arms), samples, controls=(), max_new_tokens=tokens, batch_size=study.settings.batch_size,
        checkpoint=study.shared(f"{name}.ck"), progress=study.progress,
    )  # fmt: skip


def texts_of(report: SteeringReport) -> dict[str, list[str]]:
    """What was answered: under `"none"` without a vector, and with each."""
    arms = [fact.name for fact in report.interventions]
    before = [case.before for case in report.of(arms[0])]
    return {"none": before, **{arm: [case.after for case in report.of(arm)] for arm in arms}}


def score_rows(case: str, table: ScoreTable, before: ScoreTable | None = None, prefix: str = "") -> list[StudyValue]:
    """A row per score that counts anything, beside the same score without a vector."""
    return [
        StudyValue.of(case, f"{prefix}{score.name}", score.interval, score.unit,
               control=None if before is None else before[score.name].value)
        for score in table.scores
        if score.weights.sum()
    ]  # fmt: skip
