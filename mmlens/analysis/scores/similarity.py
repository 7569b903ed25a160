"""How well texts fit pictures or people's texts, by a local encoder, over a run.

Source: Parekh et al., NeurIPS 2024 (https://arxiv.org/abs/2406.08074), section 4: of several captions, the one that
fits best counts.
"""

from collections.abc import Sequence

import numpy as np
import torch

from mmlens.analysis.properties.scorers import Scorer
from mmlens.analysis.samples.sample import Dataset, Sample
from mmlens.analysis.scores.score import Run, ScoreTable
from mmlens.core.contract import checked
from mmlens.core.kinds import Count


@checked
def similarity(dataset: Dataset, texts: Sequence[str], scorer: Scorer, *, batch_size: Count = 32) -> ScoreTable:
    """The mean score of texts against their pictures, or the best against one of people's texts.

    Args:
        dataset: the pictures; for scorers of text with `references`, or a `caption`.
        texts: the model's, one per sample.
        scorer: `mm.scorers.ClipScore(path)`, `BertScore(path)`, or another.
        batch_size: pairs at a time.

    Raises:
        InputError: for another number of texts, or samples without what the scorer compares with.
    """
    run = Run(dataset, texts, "texts")
    if scorer.against == "picture":
        run.require(lambda sample: bool(sample.images), f"picture, with which {scorer.name} compares")
    else:
        run.require(
            lambda sample: bool(texts_known(sample)), f"references or caption, with which {scorer.name} compares"
        )
    values = []
    for start in range(0, len(run.samples), batch_size):
        chunk = run.samples[start : start + batch_size]
        values += best_scores(scorer, chunk, run.texts[start : start + batch_size]).tolist()
    return ScoreTable(scorer.name, (run.score(scorer.name, scorer.unit, values),))


def texts_known(sample: Sample) -> tuple[str, ...]:
    """What people said of a sample: its references, else its caption."""
    return sample.references or (() if sample.caption is None else (sample.caption,))


def best_scores(scorer: Scorer, samples: Sequence[Sample], texts: Sequence[str]) -> np.ndarray:
    """The score of each text against its sample's picture, or the best against one of its texts.

    Args:
        scorer: any.
        samples: one per text.
        texts: to be scored.
    """
    if scorer.against == "picture":
        return _numbers(scorer.score([sample.pictures[0] for sample in samples], texts))
    texts_of_samples = [texts_known(sample) for sample in samples]
    flat = scorer.score(
        [reference for references in texts_of_samples for reference in references],
        [text for text, references in zip(texts, texts_of_samples, strict=True) for _ in references],
    )
    ends = np.cumsum([len(references) for references in texts_of_samples])[:-1]
    return np.array([part.max() for part in np.split(_numbers(flat), ends)])


def _numbers(scores: torch.Tensor) -> np.ndarray:
    return scores.detach().cpu().double().numpy()
