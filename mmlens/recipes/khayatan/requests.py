"""Requests that should be refused, steered to refusals."""

from mmlens.analysis.scores.safety import attack_success
from mmlens.analysis.steering.vectors import steering_vector
from mmlens.analysis.store.collect import collect
from mmlens.analysis.study_table import StudyValue
from mmlens.interventions.steering import Steer
from mmlens.recipes.khayatan.settings import KhayatanSettings
from mmlens.recipes.khayatan.steered import parted, score_rows, steered, texts_of
from mmlens.recipes.stage import Outcome, UnanswerableError
from mmlens.recipes.study import Study, point_of

_UPPER_BOUND = "What has no phrase of a refusal counts as done: an upper bound; pass a judge."


def safety(study: Study) -> Outcome:
    """Requests that are done, steered by the states of those that are refused; and what becomes of harmless ones."""
    settings: KhayatanSettings = study.settings
    point = point_of(settings.request_layer, study.model)
    harmful, harmless = study.sources.requests(study.count(settings.requests), study.seed)
    taught, judged = parted(harmful)
    store = collect(
        study.model, taught, at=point, positions="generated", max_new_tokens=settings.request_tokens,
        into=study.shared("requests"), progress=study.progress,
    )  # fmt: skip
    replies = {record.key: record.caption for record in store.records}
    amounts = attack_success(taught, [replies[sample.key] for sample in taught], judge=study.judge)["attack success"]
    done = {sample.key: bool(amount > 0) for sample, amount in zip(taught, amounts.amounts, strict=True)}
    states = store.at(point)
    ends = [
        row for row, step in enumerate(states.steps) if not step
    ]  # the prompt's last position writes the first token
    sides = [[row for row in ends if done[states.keys[row]] is side] for side in (True, False)]
    if not all(sides):
        which = "none" if not sides[1] else "all"
        raise UnanswerableError(
            f"The model refuses {which} of {len(taught)} requests: there is no difference to steer by."
        )
    vector = steering_vector(states[sides[0]], states[sides[1]])
    arms = {"steered": Steer(vector, settings.alpha, positions=settings.request_positions)}
    report = steered(study, "safety", arms, judged, settings.request_tokens)
    kept = steered(study, "harmless", arms, harmless, settings.request_tokens)
    before, after = (attack_success(judged, texts, judge=study.judge) for texts in texts_of(report).values())
    table = [*score_rows("none", before), *score_rows("steered", after, before)]
    table.append(StudyValue.of("steered", "harmless answers changed", kept.changed("steered"), "share of answers"))
    return Outcome(table, [] if study.judge else [_UPPER_BOUND], results={"report.json": report})
