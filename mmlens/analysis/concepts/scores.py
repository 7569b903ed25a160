"""How well concepts' words fit pictures and captions, beside random words and noise pictures; and how specific a concept is."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from PIL import Image

from mmlens.analysis.concepts.bank import ConceptBank
from mmlens.analysis.concepts.grounding import find_samples
from mmlens.analysis.concepts.random_words import random_words
from mmlens.analysis.concepts.words import Keep, concept_words
from mmlens.analysis.properties.scorers import Scorer
from mmlens.analysis.samples.sample import Dataset, Sample
from mmlens.analysis.scores.similarity import best_scores, texts_known
from mmlens.analysis.statistics.intervals import Interval, mean_interval, paired_difference
from mmlens.core.contract import checked
from mmlens.core.errors import InputError
from mmlens.core.kinds import Count, Seed, Text
from mmlens.models.hooked import WritingModel

#: Put before the words, as the published code does for CLIPScore.
PREFIX = "A photo is described by the words "


@dataclass(frozen=True)
class GroundingScores:
    """How well the words of the concepts that are active in a sample fit it.

    Attributes:
        scorer, unit: what was measured.
        top: how many concepts' scores were averaged.
        rows: the states of the bank that were scored.
        concepts: per state, the mean score of its concepts' words, concept by concept.
        random: the same with as many words of random directions.
        noise: with the concepts' words, but a noise picture; NaN for scorers of text.
    """

    scorer: str
    unit: str
    top: int
    rows: tuple[int, ...]
    concepts: Float[np.ndarray, "sample"]
    random: Float[np.ndarray, "sample"]
    noise: Float[np.ndarray, "sample"]

    @property
    def mean(self) -> Interval:
        """The mean score with its interval."""
        return mean_interval(self.concepts)

    @property
    def above_random(self) -> Interval:
        """How far the concepts' words are above random ones, pair by pair."""
        return paired_difference(self.concepts, self.random)

    @property
    def above_noise(self) -> Interval:
        """How far the real picture is above noise, pair by pair."""
        return paired_difference(self.concepts, self.noise)

    def __repr__(self) -> str:
        return (
            f"GroundingScores({self.scorer}, top {self.top}: {self.mean}; above random words {self.above_random}, above noise "
            f"pictures {self.above_noise})"
        )


@checked
def score_grounding(
    model: WritingModel,
    bank: ConceptBank,
    dataset: Dataset,
    scorer: Scorer,
    *,
    top: Count = 1,
    words: Count = 10,
    rows: Sequence[int] | None = None,
    through_norm: bool = True,
    keep: Keep | None = None,
    prompt: Text | None = None,
    prefix: str = PREFIX,
    seed: Seed = 0,
) -> GroundingScores:
    """Score the words of the most active concepts of each sample against its picture or true caption.

    Args:
        model: the hooked model.
        bank: its concepts; for held-out samples `ConceptBank.of(bank.coder, states, method=bank.method)`.
        dataset: where the bank's samples come from.
        scorer: any scorer, e.g. `ClipScore(path)` for pictures, `BertScore(path)` for captions.
        top: how many concepts to take per sample; each is scored by its own words, and the scores are averaged.
        words: words per concept.
        rows: which of the bank's states; all by default.
        through_norm, keep: as for `concept_words`.
        prompt: as for `collect`.
        prefix: put before the words, which are joined by commas.
        seed: of random words and noise pictures.

    Raises:
        InputError: for states that the bank does not have, samples without a caption where one is needed, or too few concepts.

    Source: Parekh et al., NeurIPS 2024 (https://arxiv.org/abs/2406.08074), section 4, top-1 and top-3 activating concepts.
    Of several true captions, the one that fits best counts.
    *Departs:* for text the words stand as they are; the paper has a large language model write a sentence of them.
    """
    if not 1 <= top <= len(bank):
        raise InputError(f"top={top} must lie in 1..{len(bank)}, the number of concepts.")
    states_to_score = list(range(len(bank.codes))) if rows is None else list(rows)
    wrong = [row for row in states_to_score if not 0 <= row < len(bank.codes)]
    if wrong or not states_to_score:
        raise InputError(
            f"The bank has states 0..{len(bank.codes) - 1}; rows={wrong or states_to_score} are none of them."
        )
    by_key = find_samples(bank, dataset, states_to_score, prompt=prompt)
    samples = [by_key[bank.keys[row]] for row in states_to_score]
    lists = concept_words(model, bank, k=words, through_norm=through_norm, keep=keep)
    random_lists = random_words(model, bank, like=lists, seed=seed, through_norm=through_norm, keep=keep)
    best = bank.strengths().topk(top, dim=1).indices[states_to_score].tolist()

    def scores(items: Sequence[Sample], of: list[list[str]]) -> Float[np.ndarray, "sample"]:
        texts = [f"{prefix}{', '.join(of[concept])}." for concepts in best for concept in concepts]
        return best_scores(scorer, [item for item in items for _ in range(top)], texts).reshape(-1, top).mean(1)

    _require(samples, scorer)
    on_pictures = scorer.against == "picture"
    generator = np.random.default_rng(seed)
    noise = [Sample((_noise(sample.pictures[0], generator),)) for sample in samples] if on_pictures else []
    return GroundingScores(
        scorer.name,
        scorer.unit,
        top,
        tuple(states_to_score),
        scores(samples, lists),
        scores(samples, random_lists),
        scores(noise, lists) if on_pictures else np.full(len(states_to_score), np.nan),
    )


def _require(samples: Sequence[Sample], scorer: Scorer) -> None:
    """Refuse samples without what the scorer compares with."""
    on_pictures = scorer.against == "picture"
    incomplete = [s.name or s.key for s in samples if not (s.images if on_pictures else texts_known(s))]
    if incomplete:
        raise InputError(
            f"{scorer.name} compares with a {'picture' if on_pictures else 'true caption'}, which the samples "
            f"{', '.join(incomplete[:3])} have not."
        )


def _noise(like: Image.Image, generator: np.random.Generator) -> Image.Image:
    return Image.fromarray(generator.integers(0, 256, (like.height, like.width, 3), dtype=np.uint8))


def concept_specificity(bank: ConceptBank, concept: int, truth: Sequence[bool] | Bool[torch.Tensor, "sample"]) -> float:
    """The share of the states in which a concept is strongly active that are truly of a kind.

        |C_top and C_true| / |C_top|,   C_top: states with more than half of the largest activation

    Args:
        bank: the concepts.
        concept: which.
        truth: per state of the bank, whether it is of the kind (a black dog, say).

    Returns:
        0 to 1; NaN where the concept is active nowhere. To be read beside the share of all states that are of the kind.

    Raises:
        InputError: for another number of states.

    Source: Parekh et al., NeurIPS 2024 (https://arxiv.org/abs/2406.08074), appendix on the specificity of concepts.
    """
    of_kind = torch.as_tensor(truth, dtype=torch.bool)
    if of_kind.shape != (len(bank.codes),):
        raise InputError(
            f"truth must say of each of the {len(bank.codes)} states whether it is of the kind, found {list(of_kind.shape)}."
        )
    strength = bank.strengths()[:, concept]
    high = strength > 0.5 * strength.max()
    return float(of_kind[high].float().mean())
