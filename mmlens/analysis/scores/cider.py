"""CIDEr-D: how much a caption says of what people say of a picture and of no other.

Source: Vedantam, Zitnick, Parikh, "CIDEr: Consensus-based Image Description Evaluation", CVPR 2015
(https://arxiv.org/abs/1411.5726), section 6, as the COCO caption evaluation computes it: similarity per length of word groups,
clipped, times a Gaussian of the difference in length (counted in pairs of words, sigma 6), mean over lengths 1 to 4 and
references, times 10.
*Departs:* texts are parted into words here, without Java: lower case, clitics apart ("do n't", "dog 's"), punctuation dropped.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import chain
from typing import TypeAlias

import numpy as np

from mmlens.analysis.samples.sample import Dataset, as_samples
from mmlens.analysis.scores.score import Run, ScoreTable
from mmlens.core.contract import checked
from mmlens.core.errors import InputError

_LENGTHS = 4
_SIGMA = 6.0
_TOKEN = re.compile(r"n't\b|'(?:s|m|d|re|ve|ll)\b|\d+(?:[.,:]\d+)*|(?:(?!n't\b)[^\W_])+(?:-[^\W_]+)*")
_APOSTROPHES = str.maketrans({"\u2019": "'", "\u2018": "'"})

#: How often each group of neighbouring words occurs.
_Groups: TypeAlias = Counter[tuple[str, ...]]


@checked
def caption_tokens(text: str) -> list[str]:
    """The words of a caption as the COCO evaluation parts them.

    Example:
        >>> caption_tokens("A man's black-and-white dog doesn't sit, at 10:30.")
        ['a', 'man', "'s", 'black-and-white', 'dog', 'does', "n't", 'sit', 'at', '10:30']
    """
    return _TOKEN.findall(text.lower().translate(_APOSTROPHES))


@checked
def cider_d(
    dataset: Dataset,
    captions: Sequence[str],
    *,
    corpus: Dataset | None = None,
    tokens: Callable[[str], Sequence[str]] = caption_tokens,
) -> ScoreTable:
    """CIDEr-D of captions against people's.

    Args:
        dataset: the pictures, with `references`: `mm.data.karpathy(...)`, `coco_captions(...)`.
        captions: the model's, one per picture.
        corpus: pictures whose references say how rare words are; those of `dataset` by default, as is usual, so that scores of
            different sets are not comparable.
        tokens: parts a text into words.

    Returns:
        The mean, 0 to 10.

    Raises:
        InputError: for another number of captions, pictures without references, or a corpus of one picture, in which no word is
            rare.

    Example:
        >>> people = [("a dog runs on grass", "a brown dog on the grass"), ("two cats sleep on a sofa", "cats on a couch")]
        >>> from mmlens.analysis.samples.sample import Sample
        >>> pictures = [Sample((), "describe", references=texts) for texts in people]
        >>> round(cider_d(pictures, ["a dog on the grass", "two cats sleep on a sofa"])["CIDEr-D"].value, 4)
        4.9894
    """
    run = Run(dataset, captions, "captions")
    run.require(lambda sample: bool(sample.references), "references")
    pool = run.samples if corpus is None else [sample for sample in as_samples(corpus) if sample.references]
    if len(pool) < 2:
        raise InputError(
            f"CIDEr-D weighs words by how rare they are among pictures, and there is {len(pool)} with references; give more, or "
            "a corpus=."
        )
    references = [[_groups(tokens(text)) for text in sample.references] for sample in run.samples]
    people = references if corpus is None else [[_groups(tokens(text)) for text in s.references] for s in pool]
    frequency = Counter(chain.from_iterable(set().union(*texts) for texts in people))
    total = float(np.log(len(pool)))
    weigh = _Weigher(frequency, total)
    values = []
    for text, several in zip(run.texts, references, strict=True):
        weights = weigh(_groups(tokens(text)))
        values.append(10 * float(np.mean([_similarity(weights, weigh(reference)) for reference in several])))
    return ScoreTable("CIDEr-D", (run.score("CIDEr-D", "0 to 10", values),))


def _groups(words: Sequence[str]) -> _Groups:
    """The groups of 1 to 4 neighbouring words."""
    return Counter(
        tuple(words[start : start + length])
        for length in range(1, _LENGTHS + 1)
        for start in range(len(words) - length + 1)
    )


#: Per length of groups, what each group weighs; and how many pairs of words there are.
_Weights: TypeAlias = tuple[list[dict[tuple[str, ...], float]], int]


class _Weigher:
    """Weighs groups by how often a text has them and how few pictures' references do."""

    def __init__(self, frequency: Counter[tuple[str, ...]], total: float):
        self.frequency, self.total = frequency, total

    def __call__(self, groups: _Groups) -> _Weights:
        weights: list[dict[tuple[str, ...], float]] = [{} for _ in range(_LENGTHS)]
        for group, count in groups.items():
            rarity = self.total - float(np.log(max(1, self.frequency[group])))
            weights[len(group) - 1][group] = count * rarity
        return weights, sum(count for group, count in groups.items() if len(group) == 2)


def _similarity(text: _Weights, reference: _Weights) -> float:
    """The mean over lengths of clipped cosines, times the Gaussian of the difference in length."""
    similarities = []
    for own, other in zip(text[0], reference[0], strict=True):
        size = float(np.sqrt(sum(w * w for w in own.values())) * np.sqrt(sum(w * w for w in other.values())))
        product = sum(min(weight, other[group]) * other[group] for group, weight in own.items() if group in other)
        similarities.append(product / size if size else 0.0)
    return float(np.mean(similarities) * np.exp(-((text[1] - reference[1]) ** 2) / (2 * _SIGMA**2)))
