"""Captions steered to a style and to neutral words."""

from mmlens.analysis.concepts.extract import extract_concepts
from mmlens.analysis.scores.cider import cider_d
from mmlens.analysis.scores.words import word_counts
from mmlens.analysis.steering.vectors import concept_steering_vectors, steering_vector
from mmlens.analysis.store.collect import collect
from mmlens.analysis.store.states import States
from mmlens.analysis.study_table import StudyValue
from mmlens.core.answer_text import says
from mmlens.core.errors import InputError
from mmlens.interventions.steering import Steer
from mmlens.interventions.steering_vector import SteeringVector
from mmlens.recipes.khayatan.settings import KhayatanSettings
from mmlens.recipes.khayatan.steered import Halves, difference, parted, possible, score_rows, steered, texts_of
from mmlens.recipes.stage import Outcome, UnanswerableError
from mmlens.recipes.study import Study, point_of


def _captions(study: Study) -> Halves:
    """Pictures whose captions vectors are made of, and those that are captioned with them."""
    settings: KhayatanSettings = study.settings
    n = study.count(settings.vector_captions) + study.count(settings.captions)
    return study.once("captions", lambda: parted(study.sources.captions(n, settings.prompt, study.seed)))


def _word_states(study: Study) -> States:
    """The states that predict words of the classes and of people in captions, each word's at its first occurrence."""
    settings: KhayatanSettings = study.settings
    point, words = point_of(settings.caption_layer, study.model), study.sources.words
    every = dict.fromkeys(
        (*(word for several in words.classes.values() for word in several), *words.gendered, *words.neutral)
    )
    return study.once(
        "word states",
        lambda: collect(
            study.model, _captions(study)[0], at=point, token=list(every), every_word=True,
            max_new_tokens=settings.caption_tokens, into=study.shared("words"), progress=study.progress,
        ).at(point),
    )  # fmt: skip


def _of_class(states: States, words: tuple[str, ...]) -> States:
    """Of each caption the state of its first word of a class.

    Raises:
        UnanswerableError: if no caption has one.
    """
    known = {word.lower() for word in words}
    rows: dict[str, int] = {}
    for row in (row for row, token in enumerate(states.tokens) if token in known):
        rows.setdefault(states.keys[row], row)  # in the order of the caption
    if not rows:
        raise UnanswerableError("No caption has a word of it.")
    return states[list(rows.values())]


def style(study: Study) -> Outcome:
    """Captions steered to words of a class: how many have one, and CIDEr."""
    settings: KhayatanSettings = study.settings
    point = point_of(settings.caption_layer, study.model)
    first, samples = _captions(study)
    words = dict(study.sources.words.classes)
    whole = collect(
        study.model, first, at=point, positions="generated_mean", max_new_tokens=settings.caption_tokens,
        into=study.shared("captions"), progress=study.progress,
    ).at(point)  # fmt: skip
    vectors, notes = possible(
        list(words), lambda name: steering_vector(whole, _of_class(_word_states(study), words[name]))
    )
    arms = {name: Steer(vector, settings.alpha) for name, vector in vectors.items()}
    report = steered(study, "style", arms, samples, settings.caption_tokens)
    texts = texts_of(report)
    counts = {name: word_counts(samples, several, words) for name, several in texts.items()}
    table = []
    for name in texts:
        case = name if name == "none" else f"to {name}"
        table += score_rows(case, counts[name], counts["none"] if name != "none" else None)
        try:
            table += score_rows(case, cider_d(samples, texts[name]))
        except InputError as error:
            notes.append(f"No CIDEr-D: {' '.join(str(error).split())}")
    return Outcome(table, list(dict.fromkeys(notes)), results={"report.json": report})


def _fine(states: States, gendered: tuple[str, ...], n_concepts: int) -> SteeringVector:
    """From the concept that has the most gendered states to the one that has the most neutral ones."""
    bank = extract_concepts(states, min(n_concepts, len(states) // 2), method="kmeans")
    owner = bank.dominant().tolist()
    shares = []
    for concept in range(len(bank)):
        tokens = [token for token, own in zip(states.tokens, owner, strict=True) if own == concept]
        shares.append(sum(token in gendered for token in tokens) / max(len(tokens), 1))
    source, target = shares.index(max(shares)), shares.index(min(shares))
    if source == target:
        raise UnanswerableError(f"All {len(bank)} concepts have as many gendered states: {shares[0]:.0%}.")
    return concept_steering_vectors(bank, sources=[source], targets=[target])[source, target]


def gender(study: Study) -> Outcome:
    """Captions with gendered words, steered to neutral ones."""
    settings: KhayatanSettings = study.settings
    words, samples = study.sources.words, _captions(study)[1]
    people = _of_class(_word_states(study), (*words.gendered, *words.neutral))
    makers = {
        "coarse": lambda: difference(people, words.gendered, words.neutral),
        "fine": lambda: _fine(people, words.gendered, settings.n_concepts),
    }
    vectors, notes = possible(list(makers), lambda name: makers[name]())
    arms = {name: Steer(vector, settings.alpha) for name, vector in vectors.items()}
    report = steered(study, "gender", arms, samples, settings.caption_tokens)
    table = []
    for name in vectors:
        cases = [case for case in report.of(name) if says(case.before, words.gendered)]
        still = [says(case.after, words.gendered) for case in cases]
        neutral = [says(case.after, words.neutral) and not again for case, again in zip(cases, still, strict=True)]
        table += [
            StudyValue(name, quantity, value, "captions", count=count)
            for quantity, value, count in (
                ("gendered captions before", len(cases), len(samples)),
                ("captions made neutral", sum(neutral), len(cases)),
                ("gendered captions after", sum(still), len(cases)),
            )
        ]
        if cases:
            became = report.became(name, list(words.gendered), list(words.neutral))
            table.append(StudyValue.of(name, "made neutral", became, "share"))
    return Outcome(table, notes, results={"report.json": report})
