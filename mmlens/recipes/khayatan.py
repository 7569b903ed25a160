"""Khayatan et al., "Analyzing Fine-tuning Representation Shift for Multimodal LLMs Steering Alignment", ICCV 2025
(https://arxiv.org/abs/2501.03012), stage by stage: what is about steering; shifts are in `shifting.py`.

*Departs:* vectors and answers are of pictures that are apart (halves of one set); words are whole words; layers of other models
are those as deep. The paper's numbers are of LLaVA-1.5-7B (safety: Qwen2-VL-7B), read in summaries of it.
"""

from collections.abc import Callable, Mapping, Sequence

from mmlens.analysis.concepts.extract import extract_concepts
from mmlens.analysis.samples.chunks import chunks_of
from mmlens.analysis.scores.cider import cider_d
from mmlens.analysis.scores.safety import attack_success
from mmlens.analysis.scores.score import ScoreTable
from mmlens.analysis.scores.vqa import vqa_accuracy
from mmlens.analysis.scores.words import answer_types, word_counts
from mmlens.analysis.steering.answers import answers as texts_of
from mmlens.analysis.steering.outcome import SteeringReport
from mmlens.analysis.steering.report import steering_report
from mmlens.analysis.steering.vectors import concept_steering_vectors, steering_vector
from mmlens.analysis.store.collect import collect
from mmlens.analysis.store.states import States
from mmlens.analysis.store.store import ActivationStore
from mmlens.analysis.study_table import StudyValue
from mmlens.core.answer_text import normalised, says
from mmlens.core.errors import InputError
from mmlens.interventions.steering import Steer
from mmlens.interventions.steering_vector import SteeringVector
from mmlens.recipes.khayatan_settings import KhayatanSettings
from mmlens.recipes.shifting import recovery, shift
from mmlens.recipes.sources import Samples, halves, rows
from mmlens.recipes.stage import Outcome, Stage, UnanswerableError
from mmlens.recipes.study import Study, point_of

_DROPPED = "is left out: "


def _questions(study: Study) -> tuple[Samples, Samples]:
    """Questions that vectors are made of, and those that are answered with them; they share no picture."""
    settings: KhayatanSettings = study.settings

    def make() -> tuple[Samples, Samples]:
        samples = study.sources.questions(
            study.count(settings.vector_questions) + study.count(settings.questions), study.seed
        )
        first, second = halves(samples)
        return rows(samples, first), rows(samples, second)

    return study.once("questions", make)


def _captions(study: Study) -> tuple[Samples, Samples]:
    settings: KhayatanSettings = study.settings

    def make() -> tuple[Samples, Samples]:
        n = study.count(settings.vector_captions) + study.count(settings.captions)
        samples = study.sources.captions(n, settings.prompt, study.seed)
        first, second = halves(samples)
        return rows(samples, first), rows(samples, second)

    return study.once("captions", make)


def _answer_states(study: Study) -> ActivationStore:
    """The states that predict the words, at every layer that is steered."""
    settings: KhayatanSettings = study.settings
    points = dict.fromkeys(point_of(layer, study.model) for layer in (settings.answer_layer, *settings.layers))
    words = list(dict.fromkeys(word for pair in study.sources.words.changes for word in pair))
    return study.once(
        "answer states",
        lambda: collect(
            study.model, _questions(study)[0], at=list(points), token=words, max_new_tokens=settings.answer_tokens,
            into=study.shared("answers"), progress=study.progress,
        ),
    )  # fmt: skip


def _vector(states: States, source: Sequence[str], target: Sequence[str]) -> SteeringVector:
    """From the mean of the states of some words to that of others."""
    sides = [[row for row, token in enumerate(states.tokens) if token in words] for words in (source, target)]
    if not all(sides):
        lacking = " and ".join("/".join(words) for words, side in zip((source, target), sides) if not side)
        raise UnanswerableError(f"No state says {lacking}: the model does not answer so.")
    return steering_vector(states[sides[0]], states[sides[1]])


def _possible(
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
            reasons.append(f"{name} {_DROPPED}{' '.join(str(error).split())}")
    if not vectors:
        raise UnanswerableError(" ".join(reasons))
    return vectors, reasons


def _steered(
    study: Study, name: str, arms: Mapping[str, Steer], samples: Samples, tokens: int, prompt: str | None = None
) -> SteeringReport:
    """Answers with and without each vector; one pass without for all."""
    return steering_report(
        study.model, dict(arms), samples, controls=(), prompt=prompt, max_new_tokens=tokens,
        batch_size=study.settings.batch_size, checkpoint=study.shared(f"{name}.ck"), progress=study.progress,
    )  # fmt: skip


def _texts(report: SteeringReport, arm: str) -> list[str]:
    return [case.after for case in report.of(arm)]


def _before(report: SteeringReport) -> list[str]:
    return [case.before for case in report.of(report.interventions[0].name)]


def _score_rows(case: str, table: ScoreTable, before: ScoreTable | None = None, prefix: str = "") -> list[StudyValue]:
    return [
        StudyValue.of(case, f"{prefix}{score.name}", score.interval, score.unit,
               control=None if before is None else before[score.name].value)
        for score in table.scores
        if score.weights.sum()
    ]  # fmt: skip


def _changes(study: Study) -> dict[str, tuple[str, str]]:
    return {f"{source} -> {target}": (source, target) for source, target in study.sources.words.changes}


def answers(study: Study) -> Outcome:
    """Answers steered to others: accuracy by type, how many answers change, and of which type answers are."""
    settings: KhayatanSettings = study.settings
    changes = _changes(study)
    states = _answer_states(study).at(point_of(settings.answer_layer, study.model))
    vectors, notes = _possible(list(changes), lambda name: _vector(states, *((word,) for word in changes[name])))
    samples = _questions(study)[1]
    arms = {name: Steer(vector, settings.alpha) for name, vector in vectors.items()}
    report = _steered(study, "answers", arms, samples, settings.answer_tokens)
    texts = {"none": _before(report), **{name: _texts(report, name) for name in vectors}}
    accuracy = {name: vqa_accuracy(samples, several) for name, several in texts.items()}
    kinds = {name: answer_types(samples, several) for name, several in texts.items()}
    table = []
    for name in texts:
        table += _score_rows(name, accuracy[name], accuracy["none"] if name != "none" else None)
        if name != "none":
            for side, word in zip(("source", "target"), changes[name], strict=True):
                said = [sum(normalised(text) == word for text in texts[when]) for when in ("none", name)]
                table.append(
                    StudyValue(
                        name, f"answers that are the {side} word, change", said[1] - said[0], "answers",
                        count=len(samples), control=float(said[0]),
                    )
                )  # fmt: skip
        table += _score_rows(name, kinds[name], prefix="answers, ")
    return Outcome(table, notes, {"changes": report.plot()}, {"report.json": report})


def types(study: Study) -> Outcome:
    """Answers steered to a type: the mean of its questions' states beside that of all."""
    settings: KhayatanSettings = study.settings
    point = point_of(settings.answer_layer, study.model)
    first, samples = _questions(study)
    of = {sample.name: sample.types.get("answer_type", "") for sample in first}
    kinds = sorted({kind for kind in of.values() if kind})
    states = study.once(
        "question states",
        lambda: collect(
            study.model, first, at=point, positions="last", into=study.shared("questions"), progress=study.progress
        ),
    ).at(point)

    def make(kind: str) -> SteeringVector:
        return steering_vector(states, states[[row for row, name in enumerate(states.names) if of.get(name) == kind]])

    vectors, notes = _possible(kinds, make)
    arms = {kind: Steer(vector, settings.alpha) for kind, vector in vectors.items()}
    report = _steered(study, "types", arms, samples, settings.answer_tokens)
    before = answer_types(samples, _before(report))
    table = _score_rows("none", before)
    for kind in vectors:
        table += _score_rows(f"to {kind}", answer_types(samples, _texts(report, kind)), before)
    return Outcome(
        table,
        [*notes, "States of the questions' last position, which predicts the answer."],
        {},
        {"report.json": report},
    )


def style(study: Study) -> Outcome:
    """Captions steered to words of a class: how many have one, and CIDEr."""
    settings: KhayatanSettings = study.settings
    point = point_of(settings.caption_layer, study.model)
    first, samples = _captions(study)
    whole = collect(
        study.model, first, at=point, positions="generated_mean", max_new_tokens=settings.caption_tokens,
        into=study.shared("captions"), progress=study.progress,
    ).at(point)  # fmt: skip

    def make(name: str) -> SteeringVector:
        store = collect(
            study.model, first, at=point, token=study.sources.words.classes[name], max_new_tokens=settings.caption_tokens,
            into=study.shared(f"captions {name}"), progress=study.progress,
        )  # fmt: skip
        return steering_vector(whole, store.at(point))

    vectors, notes = _possible(list(study.sources.words.classes), make)
    arms = {name: Steer(vector, settings.alpha) for name, vector in vectors.items()}
    report = _steered(study, "style", arms, samples, settings.caption_tokens)
    words = dict(study.sources.words.classes)
    texts = {"none": _before(report), **{name: _texts(report, name) for name in vectors}}
    counts = {name: word_counts(samples, several, words) for name, several in texts.items()}
    table = []
    for name in texts:
        case = name if name == "none" else f"to {name}"
        table += _score_rows(case, counts[name], counts["none"] if name != "none" else None)
        try:
            table += _score_rows(case, cider_d(samples, texts[name]))
        except InputError as error:
            notes.append(f"CIDEr-D of {case}: {' '.join(str(error).split())}")
    return Outcome(table, list(dict.fromkeys(notes)), {}, {"report.json": report})


def gender(study: Study) -> Outcome:
    """Captions with gendered words, steered to neutral ones."""
    settings: KhayatanSettings = study.settings
    point = point_of(settings.caption_layer, study.model)
    words = study.sources.words
    first, samples = _captions(study)
    states = collect(
        study.model, first, at=point, token=[*words.gendered, *words.neutral], max_new_tokens=settings.caption_tokens,
        into=study.shared("people"), progress=study.progress,
    ).at(point)  # fmt: skip

    def fine() -> SteeringVector:
        """From the concept that has the most gendered states to the one that has the most neutral ones."""
        bank = extract_concepts(states, min(settings.n_concepts, len(states) // 2), method="kmeans")
        owner = bank.dominant().tolist()
        shares = []
        for concept in range(len(bank)):
            tokens = [token for token, own in zip(states.tokens, owner, strict=True) if own == concept]
            shares.append(sum(token in words.gendered for token in tokens) / max(len(tokens), 1))
        source, target = shares.index(max(shares)), shares.index(min(shares))
        if source == target:
            raise UnanswerableError(f"All {len(bank)} concepts have as many gendered states: {shares[0]:.0%}.")
        return concept_steering_vectors(bank, sources=[source], targets=[target])[source, target]

    makers = {"coarse": lambda: _vector(states, words.gendered, words.neutral), "fine": fine}
    vectors, notes = _possible(list(makers), lambda name: makers[name]())
    arms = {name: Steer(vector, settings.alpha) for name, vector in vectors.items()}
    report = _steered(study, "gender", arms, samples, settings.caption_tokens)
    table = []
    for name in vectors:
        cases = [case for case in report.of(name) if says(case.before, words.gendered)]
        neutral = [says(case.after, words.neutral) and not says(case.after, words.gendered) for case in cases]
        table += [
            StudyValue(name, "gendered captions before", len(cases), "captions", count=len(samples)),
            StudyValue(name, "captions made neutral", sum(neutral), "captions", count=len(cases)),
            StudyValue(
                name,
                "gendered captions after",
                sum(says(case.after, words.gendered) for case in cases),
                "captions",
                count=len(cases),
            ),
        ]
        if cases:
            table.append(
                StudyValue.of(
                    name, "made neutral", report.became(name, list(words.gendered), list(words.neutral)), "share"
                )
            )
    return Outcome(table, notes, {}, {"report.json": report})


def safety(study: Study) -> Outcome:
    """Requests that are done, steered by the states of those that are refused; and what becomes of harmless ones."""
    settings: KhayatanSettings = study.settings
    point = point_of(settings.request_layer, study.model)
    harmful, harmless = study.sources.requests(study.count(settings.requests), study.seed)
    replies = [
        text
        for chunk in chunks_of(study.model, harmful, None, settings.batch_size)
        for text in texts_of(study.model, chunk.batch, (), max_new_tokens=settings.request_tokens)
    ]
    judged = attack_success(harmful, replies, judge=study.judge)["attack success"]
    done = [bool(amount > 0) for amount in judged.amounts]
    states = collect(
        study.model, harmful, at=point, positions="last", into=study.shared("requests"), progress=study.progress
    ).at(point)  # fmt: skip
    first, second = halves(harmful)
    taught = {harmful[number].name: done[number] for number in first}
    sides = [[row for row, name in enumerate(states.names) if taught.get(name) is side] for side in (True, False)]
    if not all(sides):
        which = "none" if not sides[1] else "all"
        raise UnanswerableError(
            f"The model refuses {which} of {len(first)} requests: there is no difference to steer by."
        )
    vector = steering_vector(states[sides[0]], states[sides[1]])
    steer = Steer(vector, settings.alpha, positions=settings.request_positions)
    judged_requests = rows(harmful, second)
    report = _steered(study, "safety", {"steered": steer}, judged_requests, settings.request_tokens)
    kept = _steered(study, "harmless", {"steered": steer}, harmless, settings.request_tokens)
    before = attack_success(judged_requests, _before(report), judge=study.judge)
    after = attack_success(judged_requests, _texts(report, "steered"), judge=study.judge)
    table = [*_score_rows("none", before), *_score_rows("steered", after, before)]
    table.append(StudyValue.of("steered", "harmless answers changed", kept.changed("steered"), "share of answers"))
    notes = (
        []
        if study.judge is not None
        else ["What has no phrase of a refusal counts as done: an upper bound; pass a judge."]
    )
    return Outcome(table, notes, {}, {"report.json": report})


def layers(study: Study) -> Outcome:
    """The first change of an answer at every layer: accuracy, and how many answers become the target."""
    settings: KhayatanSettings = study.settings
    arms, change, notes = {}, *_first_change(study)
    for layer in settings.layers:
        point = point_of(layer, study.model)
        arms[point] = Steer(_vector(_answer_states(study).at(point), *((word,) for word in change)), settings.alpha)
    return _sweep(study, "layers", arms, change, notes)


def strengths(study: Study) -> Outcome:
    """The first change of an answer at several strengths."""
    settings: KhayatanSettings = study.settings
    change, notes = _first_change(study)
    states = _answer_states(study).at(point_of(settings.answer_layer, study.model))
    vector = _vector(states, *((word,) for word in change))
    return _sweep(
        study, "strengths", {f"alpha {alpha:g}": Steer(vector, alpha) for alpha in settings.alphas}, change, notes
    )


def _first_change(study: Study) -> tuple[tuple[str, str], list[str]]:
    """The first of the changes whose words the model says."""
    changes = _changes(study)
    states = _answer_states(study).at(point_of(study.settings.answer_layer, study.model))
    vectors, notes = _possible(list(changes), lambda name: _vector(states, *((word,) for word in changes[name])))
    return changes[next(iter(vectors))], notes


def _sweep(study: Study, name: str, arms: dict[str, Steer], change: tuple[str, str], notes: Sequence[str]) -> Outcome:
    settings: KhayatanSettings = study.settings
    samples = _questions(study)[1][: study.count(settings.sweep_questions)]
    report = _steered(study, name, arms, samples, settings.answer_tokens)
    before = vqa_accuracy(samples, _before(report))
    table = _score_rows("none", before)
    for arm in arms:
        table += _score_rows(arm, vqa_accuracy(samples, _texts(report, arm)), before)
        share = report.mean(arm, lambda case: normalised(case.after) == change[1])
        table.append(
            StudyValue.of(arm, f"answers that are {change[1]!r}", share, "share of answers",
                   control=sum(normalised(text) == change[1] for text in _before(report)) / len(samples))
        )  # fmt: skip
    return Outcome(table, [f"{change[0]} -> {change[1]}.", *notes], {}, {"report.json": report})


STAGES = (
    Stage("shift", "concepts of fine-tunes: magnitude, consistency, recovery, fates", shift),
    Stage("recovery", "recovery beside consistency and magnitude", recovery),
    Stage("answers", "answers steered to others", answers),
    Stage("types", "answers steered to a type", types),
    Stage("style", "captions steered to a style", style),
    Stage("gender", "captions steered to neutral words", gender),
    Stage("safety", "requests steered to refusals", safety),
    Stage("layers", "steering at every layer", layers),
    Stage("strengths", "steering at several strengths", strengths),
)
