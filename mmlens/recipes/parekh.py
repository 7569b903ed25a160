"""Parekh et al., "A Concept-Based Explainability Framework for Large Multimodal Models", NeurIPS 2024
(https://arxiv.org/abs/2406.08074), stage by stage.

*Departs:* words are told by their letters; BERTScore compares the words themselves, not a sentence that a language model writes
of them. The published tables could not be read, so that the paper's column is blank.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from mmlens.analysis.concepts.bank import ConceptBank, word_overlap
from mmlens.analysis.concepts.explain import sweep_concepts
from mmlens.analysis.concepts.extract import extract_concepts
from mmlens.analysis.concepts.grounding import ground_concepts
from mmlens.analysis.concepts.methods.semi_nmf import SemiNMF
from mmlens.analysis.concepts.scores import score_grounding
from mmlens.analysis.concepts.words import concept_words
from mmlens.analysis.properties.scorers import Scorer
from mmlens.analysis.store.collect import collect
from mmlens.analysis.store.states import States
from mmlens.analysis.store.store import ActivationStore
from mmlens.analysis.study_table import StudyValue
from mmlens.core.answer_text import says
from mmlens.core.contract import checked
from mmlens.core.kinds import Count, NonNegative, Several, Text
from mmlens.recipes.stage import Layer, Outcome, UnanswerableError, stages
from mmlens.recipes.study import Study, point_of


@checked
@dataclass(frozen=True)
class ParekhSettings:
    """What decides the study.

    Attributes:
        prompt: what is asked of each picture; the samples' own if None.
        samples: pictures that are captioned.
        max_new_tokens: of a caption.
        layer: of 32, whose states are decomposed; layers: of the ablation.
        n_concepts, penalty: of Semi-NMF; numbers: of the ablation of how many.
        words, scored_words: of a concept; those that are scored.
        pictures: the most activating ones of a concept.
        through_norm: whether concepts go through the final norm before they are read as words.
        least: words of fewer states are left out.
    """

    prompt: Text | None = None
    samples: Count = 300
    max_new_tokens: Count = 30
    layer: Layer = 31
    layers: Several[Layer] = (1, 11, 21, 31)
    n_concepts: Count = 5
    penalty: NonNegative = 1.0
    numbers: Several[Count] = (1, 2, 3, 5, 8)
    words: Count = 15
    scored_words: Count = 10
    pictures: Count = 5
    through_norm: bool = True
    least: Count = 12

    @classmethod
    def published(cls) -> "ParekhSettings":
        """The paper's: 20 concepts of the last layer, Karpathy's test split for LLaVA, concepts unembedded as they are."""
        return cls(
            prompt="Describe the image in few words.",
            samples=5000,
            layers=(1, 5, 10, 15, 20, 25, 31),
            n_concepts=20,
            numbers=(1, 2, 3, 5, 8, 12, 16, 20, 25, 30),
            through_norm=False,
            least=40,
        )


#: The penalty is the printed formula's; scikit-learn, which the published code calls, halves the squared error: its 1 is 2 there.
_SWEEP = {"reconstruction_error": "share of energy", "overlap": "share of words", "words": "per concept"}
METHODS = ("semi_nmf", "kmeans", "pca", "simple")
_BASELINES = "Beside them: as many words of random directions, and noise pictures."


@dataclass(frozen=True)
class CaptionWords:
    """The share of a text's words that the true caption has: what there is without another model."""

    name: str = "words in the caption"
    unit: str = "share of words"
    against: str = "text"

    def score(self, references: Sequence[str], texts: Sequence[str]) -> torch.Tensor:
        """One share per pair of a caption and a list of words."""
        lists = [[word.strip(" .") for word in text.split(",")] for text in texts]
        pairs = zip(references, lists, strict=True)
        return torch.tensor([sum(says(caption, word) for word in words) / len(words) for caption, words in pairs])


def _store(study: Study) -> ActivationStore:
    """The states that predict the words, every one that a caption has, at all layers that are asked about."""
    settings: ParekhSettings = study.settings
    points = dict.fromkeys(point_of(layer, study.model) for layer in (*settings.layers, settings.layer))
    return study.once(
        "states",
        lambda: collect(
            study.model, study.captions(settings.samples), at=list(points), token=study.sources.words.tokens, every_word=True,
            in_truth=True, max_new_tokens=settings.max_new_tokens, into=study.shared("states"), progress=study.progress,
        ),
    )  # fmt: skip


def _words(study: Study) -> dict[str, States]:
    """The states of each word that has enough of them, at the layer that is decomposed."""
    settings: ParekhSettings = study.settings
    states = _store(study).at(point_of(settings.layer, study.model))
    counts = Counter(states.tokens)
    enough = [word for word in study.sources.words.tokens if counts[word] >= max(settings.least, settings.n_concepts)]
    if not enough:
        most = ", ".join(f"{word} ({count})" for word, count in counts.most_common(4))
        raise UnanswerableError(
            f"No word is said rightly of {max(settings.least, settings.n_concepts)} pictures: {most or 'none at all'}."
        )
    return {word: states.with_token(word) for word in enough[:8]}


def _bank(study: Study, word: str, states: States, method: str = "semi_nmf") -> ConceptBank:
    settings: ParekhSettings = study.settings
    chosen = SemiNMF(penalty=settings.penalty, seed=study.seed) if method == "semi_nmf" else method
    return study.once(f"{word} {method}", lambda: extract_concepts(states, settings.n_concepts, method=chosen))


def concepts(study: Study) -> Outcome:
    """What concepts leave of the states of a word, by each method."""
    table = []
    results = {}
    for word, states in _words(study).items():
        for method in METHODS:
            bank = _bank(study, word, states, method)
            table.append(
                StudyValue(
                    f"{word}, {method}",
                    "reconstruction error",
                    bank.reconstruction_error,
                    "share of energy",
                    count=len(states),
                )
            )
        results[f"{word}.safetensors"] = _bank(study, word, states)
    return Outcome(table, results=results)


def grounding(study: Study) -> Outcome:
    """Words of concepts beside the pictures and captions in which they are active."""
    settings: ParekhSettings = study.settings
    samples = study.captions(settings.samples)
    table, figures = [], {}
    scorers: list[Scorer] = [CaptionWords(), *study.scorers]  # type: ignore[list-item]
    for word, states in _words(study).items():
        for method in METHODS:
            bank = _bank(study, word, states, method)
            for scorer in scorers:
                for top in dict.fromkeys((1, min(3, len(bank)))):
                    scores = score_grounding(
                        study.model, bank, samples, scorer, top=top, words=settings.scored_words, prefix=_prefix(scorer),
                        through_norm=settings.through_norm, seed=study.seed,
                    )  # fmt: skip
                    table.append(
                        StudyValue.of(f"{word}, {method}", f"{scorer.name}, top {top}", scores.mean, scorer.unit,
                               control=float(scores.random.mean()))
                    )  # fmt: skip
        board = ground_concepts(
            study.model, _bank(study, word, states), samples, k=settings.pictures, words=settings.words,
            through_norm=settings.through_norm, maps=False, progress=study.progress,
        )  # fmt: skip
        figures[f"board {word}"] = board.plot(maps=False)
    notes = [_BASELINES] + (
        [] if study.scorers else ["CLIPScore and BERTScore need local checkpoints: pass --clip and --bert."]
    )
    return Outcome(table, notes, figures)


def _prefix(scorer: Scorer) -> str:
    return "A photo is described by the words " if scorer.against == "picture" else ""


def overlap(study: Study) -> Outcome:
    """How far the concepts of a word say the same."""
    settings: ParekhSettings = study.settings
    table = []
    for word, states in _words(study).items():
        for method in METHODS:
            lists = concept_words(
                study.model, _bank(study, word, states, method), k=settings.words, through_norm=settings.through_norm
            )
            table.append(
                StudyValue(f"{word}, {method}", "overlap", word_overlap(lists), "share of words", count=len(lists))
            )
    return Outcome(table, ["0 is best; a concept without words counts 0."])


def ablations(study: Study) -> Outcome:
    """Other layers, other numbers of concepts, other weights of the penalty."""
    settings: ParekhSettings = study.settings
    word, states = max(_words(study).items(), key=lambda pair: len(pair[1]))
    store = _store(study)
    keys = set(states.keys)
    sweep = sweep_concepts(
        study.model, store, settings.n_concepts, words=settings.words, through_norm=settings.through_norm
    )
    table = []
    for line in sweep.to_frame().to_dict("records"):
        for quantity, unit in (
            ("reconstruction_error", "share of energy"),
            ("overlap", "share of words"),
            ("words", "per concept"),
        ):
            table.append(
                StudyValue(f"all words, {line['point']}", quantity.replace("_", " "), float(line[quantity]), unit)
            )
    for number in settings.numbers:
        if number <= min(states.values.shape):
            error = extract_concepts(states, number).reconstruction_error
            table.append(
                StudyValue(
                    f"{word}, {number} concepts", "reconstruction error", error, "share of energy", count=len(keys)
                )
            )
    for penalty in (0.1, 1.0, 10.0):
        bank = extract_concepts(states, settings.n_concepts, method=SemiNMF(penalty=penalty, seed=study.seed))
        sparsity = float((bank.codes > 0).float().mean())
        table.append(
            StudyValue(
                f"{word}, penalty {penalty:g}", "reconstruction error", bank.reconstruction_error, "share of energy"
            )
        )
        table.append(StudyValue(f"{word}, penalty {penalty:g}", "active concepts", sparsity, "share of codes"))
    return Outcome(table)


STAGES = stages(concepts, grounding, overlap, ablations)
