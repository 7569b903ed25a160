"""Sensitivity: whether the words that a noun's neurons write are that noun, and true of the picture."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial

from mmlens.analysis.neurons.find import find_neurons
from mmlens.analysis.neurons.methods.weights import Weights
from mmlens.analysis.neurons.words import row_logits
from mmlens.analysis.nouns.caption_nouns import Nouns
from mmlens.analysis.properties.cases import Case, MethodChoice, NeuronChoice
from mmlens.analysis.properties.measurements import Measurements
from mmlens.analysis.properties.noun_occurrences import CaptionSettings
from mmlens.analysis.properties.quantities import Quantity, Value
from mmlens.analysis.properties.run import run
from mmlens.analysis.properties.scorers import Scorer
from mmlens.analysis.samples.sample import Dataset
from mmlens.core.answer_text import says
from mmlens.core.contract import checked
from mmlens.core.kinds import Count, Seed
from mmlens.core.unit_sets import Units
from mmlens.models.hooked import WritingModel

#: The neurons whose rows write the noun the most, whatever they do: chosen by weights alone, of all layers.
WEIGHTS = "weights alone"
AMONG = Quantity("noun among its words", "share of neurons", baseline=WEIGHTS)
RANK = Quantity("rank of the noun", "median rank", better="lower", baseline=WEIGHTS)
SAID = Quantity("words that the caption has", "share of words", baseline=WEIGHTS)
TRUE = Quantity("words that are true of the picture", "share of words", baseline=WEIGHTS)


@dataclass(frozen=True)
class Sensitivity:
    """See `sensitivity`.

    Attributes:
        words: how many words of each neuron are read.
        scorers: further measures of how the words fit the picture or the text.
        k: how many neurons are read; all that were chosen by default.
    """

    words: int = 5
    scorers: Sequence[Scorer] = ()
    k: int | None = None

    @property
    def label(self) -> str:
        """Its name."""
        return "sensitivity"

    @property
    def quantities(self) -> Sequence[Quantity]:
        """Overlap, rank, and one per scorer."""
        return (AMONG, RANK, SAID, TRUE, *(Quantity(scorer.name, scorer.unit) for scorer in self.scorers))

    def measure(self, cases: Sequence[Case]) -> Iterator[Value]:
        """Read the rows of each choice of neurons as words."""
        texts: list[tuple[Case, str, str]] = []
        for case in cases:
            alone, model = _by_weights(case, self.k), case.occurrence.model
            text_of = cache(lambda token, model=model: model.to_string(token).strip().lower())
            said, true = (
                cache(partial(says, text)) for text in (case.occurrence.caption, case.occurrence.sample.caption or "")
            )
            for method, neurons in [*case.sets(self.k).items(), *([] if alone is None else [(WEIGHTS, alone)])]:
                logits = row_logits(model, neurons).float().cpu()
                target = logits[:, case.occurrence.token, None]
                best = logits.topk(self.words, dim=1).indices
                yield case.value(
                    AMONG.name, method, float((best == case.occurrence.token).any(1).float().mean()), k=self.k
                )
                yield case.value(RANK.name, method, float((1 + (logits > target).sum(1)).float().median()), k=self.k)
                words = [text_of(token) for token in best.flatten().tolist()]
                yield case.value(SAID.name, method, sum(map(said, words)) / len(words), k=self.k)
                if case.occurrence.sample.caption is not None:
                    yield case.value(TRUE.name, method, sum(map(true, words)) / len(words), k=self.k)
                texts.append((case, method, " ".join(dict.fromkeys(words))))
        for scorer in self.scorers:
            entries = [
                entry for entry in texts if (entry[0].occurrence.sample.images if scorer.against == "picture" else True)
            ]
            if entries:
                against = [_reference(case, scorer) for case, _, _ in entries]
                scores = scorer.score(against, [text for _, _, text in entries])
                for (case, method, _), score in zip(entries, scores, strict=True):
                    yield case.value(scorer.name, method, score, k=self.k)


def _by_weights(case: Case, k: int | None) -> Units | None:
    """The neurons that the weights alone would choose; None where controls were not asked for."""
    if not case.choice.controls:
        return None
    occurrence = case.occurrence
    scores = find_neurons(occurrence.model, occurrence.at, token=occurrence.token, method=Weights())
    return scores.top(k or case.choice.k)


def _reference(case: Case, scorer: Scorer) -> object:
    """What a scorer compares words with: the picture, or the true caption (the model's own where none is known)."""
    sample = case.occurrence.sample
    return sample.pictures[0] if scorer.against == "picture" else sample.caption or case.occurrence.caption


@checked
def sensitivity(
    model: WritingModel,
    dataset: Dataset,
    *,
    methods: MethodChoice = ("contribution", "random"),
    k: Count = 20,
    words: Count = 5,
    scorers: Sequence[Scorer] = (),
    nouns: Nouns = None,
    draws: Count = 20,
    seed: Seed = 0,
    progress: bool = True,
) -> Measurements:
    """Read the top neurons of every noun as words, and compare these with the noun, the caption and the picture.

    A neuron's words are the tokens whose logits its row raises most: the largest entries of `W_out[i] @ W_U`.

    Args:
        model: the hooked model.
        dataset: samples; see `mmlens.analysis.samples.sample`.
        methods: how neurons are chosen; `"random"` adds random neurons beside each: of the same layers, and as active too.
        k: how many neurons.
        words: how many words of each.
        scorers: further measures, from local checkpoints: `mmlens.analysis.properties.scorers`.
        nouns: as for `mm.neurons.caption_nouns`.
        draws: how many sets of random neurons of either kind.
        seed: of the random neurons.
        progress: show a progress bar.

    Returns:
        The share of neurons with the noun among their words, the noun's rank, and the share of words that the caption
        has and that are true of the picture; one more per scorer. Beside random neurons stands what the weights alone give, as
        `"weights alone"`: the neurons whose rows write the noun the most, whether they are active or not.

    Example:
        >>> found = sensitivity(model, [scene], k=5, nouns=["person"], progress=False)
        >>> found.difference("noun among its words", "contribution").mean > 0
        True

    Source: Pan et al., "Finding and Editing Multi-Modal Neurons in Pre-Trained Transformers", Findings of ACL 2024
    (https://arxiv.org/abs/2311.07470), semantic sensitivity, which scores words with CLIPScore, BERTScore, MoverScore and
    BLEURT.
    *Departs:* overlap and rank need no second model and are always there.
    """
    measures = [Sensitivity(words, tuple(scorers))]
    return run(
        model,
        dataset,
        measures,
        NeuronChoice.of(methods, k, seed, draws),
        settings=CaptionSettings(nouns),
        progress=progress,
    )
