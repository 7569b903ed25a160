"""Answers steered to others, to a type, by chosen vectors, at every layer and at several strengths."""

from collections import Counter
from collections.abc import Sequence

from mmlens.analysis.concepts.extract import extract_concepts
from mmlens.analysis.scores.vqa import vqa_accuracy
from mmlens.analysis.scores.words import answer_types
from mmlens.analysis.statistics.intervals import Interval
from mmlens.analysis.steering.methods.effect import Effect
from mmlens.analysis.steering.outcome import SteeringReport
from mmlens.analysis.steering.vectors import concept_steering_vectors, steering_vector
from mmlens.analysis.store.collect import collect
from mmlens.analysis.store.states import States
from mmlens.analysis.store.store import ActivationStore
from mmlens.analysis.study_table import StudyValue
from mmlens.core.answer_text import normalised
from mmlens.interventions.steering import Steer
from mmlens.interventions.steering_vector import SteeringVector
from mmlens.recipes.khayatan.settings import KhayatanSettings
from mmlens.recipes.khayatan.steered import Halves, difference, parted, possible, score_rows, steered, texts_of
from mmlens.recipes.stage import Outcome, UnanswerableError
from mmlens.recipes.study import Study, point_of


def _questions(study: Study) -> Halves:
    """Questions that vectors are made of, and those that are answered with them."""
    settings: KhayatanSettings = study.settings
    n = study.count(settings.vector_questions) + study.count(settings.questions)
    return study.once("questions", lambda: parted(study.sources.questions(n, study.seed)))


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


def _question_states(study: Study) -> States:
    """The states of the questions' last position, which predicts the answer."""
    point = point_of(study.settings.answer_layer, study.model)
    return study.once(
        "question states",
        lambda: collect(
            study.model, _questions(study)[0], at=point, positions="last", into=study.shared("questions"),
            progress=study.progress,
        ).at(point),
    )  # fmt: skip


def _changes(study: Study) -> tuple[dict[str, tuple[str, str]], dict[str, SteeringVector], list[str]]:
    """Answers and what they are steered to, by name; the vectors of those that the model says, and why others have none."""
    changes = {f"{source} -> {target}": (source, target) for source, target in study.sources.words.changes}
    states = _answer_states(study).at(point_of(study.settings.answer_layer, study.model))
    return changes, *possible(list(changes), lambda name: difference(states, *((word,) for word in changes[name])))


def answers(study: Study) -> Outcome:
    """Answers steered to others: accuracy by type, how many change, and of which type answers are."""
    settings: KhayatanSettings = study.settings
    changes, vectors, notes = _changes(study)
    samples = _questions(study)[1]
    arms = {name: Steer(vector, settings.alpha) for name, vector in vectors.items()}
    report = steered(study, "answers", arms, samples, settings.answer_tokens)
    texts = texts_of(report)
    accuracy = {name: vqa_accuracy(samples, several) for name, several in texts.items()}
    kinds = {name: answer_types(samples, several) for name, several in texts.items()}
    table = []
    for name in texts:
        table += score_rows(name, accuracy[name], accuracy["none"] if name != "none" else None)
        if name != "none":
            for side, word in zip(("source", "target"), changes[name], strict=True):
                said = [sum(normalised(text) == word for text in texts[when]) for when in ("none", name)]
                table.append(
                    StudyValue(
                        name, f"answers that are the {side} word, change", said[1] - said[0], "answers",
                        count=len(samples), control=float(said[0]),
                    )
                )  # fmt: skip
        table += score_rows(name, kinds[name], prefix="answers, ")
    return Outcome(table, notes, {"changes": report.plot()}, {"report.json": report})


def types(study: Study) -> Outcome:
    """Answers steered to a type: the mean of its questions' states beside that of all."""
    settings: KhayatanSettings = study.settings
    first, samples = _questions(study)
    of = {sample.name: sample.types.get("answer_type", "") for sample in first}
    states = _question_states(study)

    def make(kind: str) -> SteeringVector:
        return steering_vector(states, states[[row for row, name in enumerate(states.names) if of.get(name) == kind]])

    vectors, notes = possible(sorted({kind for kind in of.values() if kind}), make)
    arms = {kind: Steer(vector, settings.alpha) for kind, vector in vectors.items()}
    report = steered(study, "types", arms, samples, settings.answer_tokens)
    kinds = {name: answer_types(samples, texts) for name, texts in texts_of(report).items()}
    table = score_rows("none", kinds["none"])
    for kind in vectors:
        table += score_rows(f"to {kind}", kinds[kind], kinds["none"])
    notes = [*notes, "States of the questions' last position, which predicts the answer."]
    return Outcome(table, notes, results={"report.json": report})


def selection(study: Study) -> Outcome:
    """Vectors between concepts, chosen by the answers that they make grow: where they were chosen, and on other questions."""
    settings: KhayatanSettings = study.settings
    first, samples = _questions(study)
    states = _question_states(study)
    bank = extract_concepts(states, min(settings.n_concepts, len(states) // 2), method="kmeans")
    vectors = {f"concept {i} -> {j}": vector for (i, j), vector in concept_steering_vectors(bank).items()}
    arms = {name: Steer(vector, settings.alpha) for name, vector in vectors.items()}
    validation = first[: study.count(settings.selection_questions)]
    tried = texts_of(steered(study, "selection", arms, validation, settings.answer_tokens))
    counts = {name: Counter(texts) for name, texts in tried.items()}
    growth = Effect().choose({name: counts[name] for name in arms}, counts["none"], settings.chosen_vectors)
    if not growth.chosen:
        raise UnanswerableError(f"None of the {len(arms)} vectors makes one answer grow more than others.")
    targets = {effect.key: effect.main[0] for effect in growth.effects if effect.key in growth.chosen}
    chosen = [name for name in arms if name in targets]
    report = steered(study, "chosen", {name: arms[name] for name in chosen}, samples, settings.answer_tokens)
    texts = texts_of(report)
    before = vqa_accuracy(samples, texts["none"])
    table = score_rows("none", before)
    for name in sorted(chosen, key=growth.chosen.index):
        answer, n = targets[name], len(validation)
        table.append(
            StudyValue(name, f"answers that are {answer!r}, where it was chosen", counts[name][answer] / n, "share of answers",
                       count=n, control=counts["none"][answer] / n)
        )  # fmt: skip
        held_out, without = f"answers that are {answer!r}, held out", texts["none"].count(answer) / len(samples)
        table.append(StudyValue.of(name, held_out, _share(report, name, answer), "share of answers", control=without))
        table += score_rows(name, vqa_accuracy(samples, texts[name]), before)
    note = f"{len(chosen)} of {len(arms)} vectors between {len(bank)} concepts; the paper judges them where they were chosen."
    files = {f"{name.replace(' -> ', ' to ')}.safetensors": vectors[name] for name in chosen}
    return Outcome(table, [note], results={"report.json": report, **files})


def _share(report: SteeringReport, name: str, answer: str) -> Interval:
    return report.mean(name, lambda case: case.after == answer)


def layers(study: Study) -> Outcome:
    """Steering at every layer: the first change of an answer."""
    changes, vectors, notes = _changes(study)
    change = changes[next(iter(vectors))]
    points = dict.fromkeys(point_of(layer, study.model) for layer in study.settings.layers)
    store, alpha = _answer_states(study), study.settings.alpha
    arms = {point: Steer(difference(store.at(point), *((word,) for word in change)), alpha) for point in points}
    return _sweep(study, "layers", arms, change, notes)


def strengths(study: Study) -> Outcome:
    """Steering at several strengths: the first change of an answer."""
    changes, vectors, notes = _changes(study)
    name, vector = next(iter(vectors.items()))
    arms = {f"alpha {alpha:g}": Steer(vector, alpha) for alpha in study.settings.alphas}
    return _sweep(study, "strengths", arms, changes[name], notes)


def _sweep(study: Study, name: str, arms: dict[str, Steer], change: tuple[str, str], notes: Sequence[str]) -> Outcome:
    settings: KhayatanSettings = study.settings
    samples = _questions(study)[1][: study.count(settings.sweep_questions)]
    report = steered(study, name, arms, samples, settings.answer_tokens)
    texts = texts_of(report)
    before = vqa_accuracy(samples, texts["none"])
    without = sum(normalised(text) == change[1] for text in texts["none"]) / len(samples)
    table = score_rows("none", before)
    for arm in arms:
        table += score_rows(arm, vqa_accuracy(samples, texts[arm]), before)
        share = report.mean(arm, lambda case: normalised(case.after) == change[1])
        table.append(StudyValue.of(arm, f"answers that are {change[1]!r}", share, "share of answers", control=without))
    return Outcome(table, [f"{change[0]} -> {change[1]}.", *notes], results={"report.json": report})
