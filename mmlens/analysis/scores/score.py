"""A score of a run, sample by sample: its interval, and its paired difference from the same score of another run.

A score is a sum of amounts over a sum of weights, one of each per sample: of a mean the weights are 1, of a rate amounts and
weights are counts (hallucinated objects of all objects said). Rates have Wilson's interval, means the bootstrap's, both over
pictures. Two runs are compared by their linearised values, whose mean is the score: `score + n (amount - score weight) / sum of
weights`; for means these are the samples' own values.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from mmlens.analysis.samples.sample import Dataset, Sample, as_samples
from mmlens.analysis.statistics.intervals import Interval, mean_interval
from mmlens.analysis.statistics.significance import sign_flip_p
from mmlens.core.contract import checked, checked_result
from mmlens.core.errors import InputError
from mmlens.core.saved import Saved
from mmlens.core.view import Viewable

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Difference:
    """How far a score lies from that of another run, sample by sample.

    Attributes:
        name: of the score.
        value: the difference with its interval, in the score's unit.
        p: two-sided, of no difference, by sign flips of whole pictures; not corrected for the number of scores. NaN where it
            cannot be told.
    """

    name: str
    value: Interval
    p: float

    def __str__(self) -> str:
        return f"{self.name}: {self.value.mean:+.4f} [{self.value.low:.4f}, {self.value.high:.4f}], p = {self.p:.3g}"


@checked_result
@dataclass(frozen=True)
class Score:
    """A score of a run.

    Attributes:
        name: of the score.
        unit: a share, or what its values are.
        amounts, weights: per sample; the score is the sum of the ones over that of the others.
        samples: names of the samples.
        pictures: what each shows; samples that share it are not independent.
    """

    name: str
    unit: str
    amounts: Float[np.ndarray, "sample"] = field(repr=False)
    weights: Float[np.ndarray, "sample"] = field(repr=False)
    samples: tuple[str, ...] = field(repr=False)
    pictures: tuple[str, ...] = field(repr=False)

    @property
    def value(self) -> float:
        """The score; NaN where nothing counts (no object was said, nothing was answered yes)."""
        total = self.weights.sum()
        return float(self.amounts.sum() / total) if total else float("nan")

    @property
    def interval(self) -> Interval:
        """The score with its 95% interval, over pictures; inside 0 to 1 where it cannot lie outside."""
        groups = np.unique(self.pictures, return_inverse=True)[1]
        is_share = self.unit.startswith("share") or self.unit == "0 to 1"
        if is_share and self._counts:
            hits, misses = self.amounts.astype(int), (self.weights - self.amounts).astype(int)
            values = np.concatenate([np.ones(hits.sum(), dtype=bool), np.zeros(misses.sum(), dtype=bool)])
            return mean_interval(values, groups=np.concatenate([np.repeat(groups, hits), np.repeat(groups, misses)]))
        if not np.isfinite(self.value):
            return mean_interval([])
        mean = mean_interval(self.values, groups=groups)
        return replace(mean, low=max(mean.low, 0.0), high=min(mean.high, 1.0)) if is_share else mean

    @property
    def _counts(self) -> bool:
        pair = np.stack([self.amounts, self.weights])
        return bool((pair == pair.round()).all() and (self.amounts <= self.weights).all() and (pair >= 0).all())

    @property
    def values(self) -> Float[np.ndarray, "sample"]:
        """The linearised values, one per sample, whose mean is the score."""
        score = self.value
        return score + len(self.weights) * (self.amounts - score * self.weights) / self.weights.sum()

    @checked
    def against(self, baseline: "Score") -> Difference:
        """How far this score lies from a baseline run's, over the same samples.

        Args:
            baseline: the same score of the other run.

        Raises:
            InputError: if it is another score, or of other samples.
        """
        if (self.name, self.samples) != (baseline.name, baseline.samples):
            kind = "another score" if self.name != baseline.name else "a run over other samples"
            raise InputError(
                f"{self.name!r} cannot be compared with {baseline.name!r} of {kind}; score the same samples twice."
            )
        if not (np.isfinite(self.value) and np.isfinite(baseline.value)):
            return Difference(self.name, Interval(np.nan, np.nan, np.nan, len(self.samples)), np.nan)
        differences = self.values - baseline.values
        groups = np.unique(self.pictures, return_inverse=True)[1]
        sums = np.bincount(groups, differences)
        p = float(sign_flip_p(sums)) if len(sums) > 1 else np.nan
        return Difference(self.name, mean_interval(differences, groups=groups), p)

    def __str__(self) -> str:
        return f"{self.name}: {self.interval} ({self.unit})"


@checked_result
@dataclass(frozen=True, repr=False)
class ScoreTable(Viewable, Saved):
    """Several scores of one run; `table["F1"]` is one of them.

    Attributes:
        title: what was scored, and how.
        scores: they.
    """

    title: str
    scores: tuple[Score, ...]

    def _ipython_key_completions_(self) -> list[str]:
        return [score.name for score in self.scores]

    @checked
    @checked
    def __getitem__(self, name: str) -> Score:
        by_name = {score.name: score for score in self.scores}
        if name not in by_name:
            raise InputError(f"There is no score {name!r} in {self.title}; there are {', '.join(map(repr, by_name))}.")
        return by_name[name]

    def __repr__(self) -> str:
        return f"{self.title}\n{self.to_frame().to_string(index=False)}"

    @checked
    def to_frame(self, baseline: "ScoreTable | None" = None) -> "pd.DataFrame":
        """One line per score: its value and interval; beside a baseline run its difference and p.

        Args:
            baseline: the same scores of another run, over the same samples.

        Raises:
            InputError: if the baseline lacks a score, or is of other samples.
        """
        import pandas as pd

        return pd.DataFrame([_line(score, None if baseline is None else baseline[score.name]) for score in self.scores])


def _line(score: Score, baseline: Score | None) -> dict[str, object]:
    interval = score.interval
    line: dict[str, object] = {
        "score": score.name, "value": score.value, "low": interval.low, "high": interval.high, "of": int(score.weights.sum()),
        "unit": score.unit,
    }  # fmt: skip
    if baseline is not None:
        difference = score.against(baseline)
        change = difference.value
        line |= {
            "baseline": baseline.value,
            "difference": change.mean,
            "low of it": change.low,
            "high of it": change.high,
        }
        line["p"] = difference.p
    return line


class Run:
    """The samples of a data set with what a model said of each.

    Args:
        dataset: the samples.
        texts: what the model said, one each.
        what: the texts, in the plural, for messages.

    Raises:
        InputError: for no samples, or another number of texts.
    """

    def __init__(self, dataset: Dataset, texts: Sequence[str], what: str = "answers"):
        self.samples: list[Sample] = list(as_samples(dataset))
        self.texts = list(texts)
        if not self.samples or len(self.samples) != len(self.texts):
            raise InputError(f"There are {len(self.texts)} {what} for {len(self.samples)} samples; give one each.")
        self.names = tuple(sample.name or str(number) for number, sample in enumerate(self.samples))
        self.pictures = tuple(
            sample.shown if sample.images or sample.name or sample.image_id else name
            for name, sample in zip(self.names, self.samples, strict=True)
        )

    def score(
        self,
        name: str,
        unit: str,
        amounts: Sequence[float] | np.ndarray,
        weights: Sequence[float] | np.ndarray | None = None,
    ) -> Score:
        """A score of it.

        Args:
            name, unit: as of `Score`.
            amounts: one per sample.
            weights: the same; 1 by default.
        """
        values = np.asarray(amounts, dtype=float)
        counts = np.ones(len(values)) if weights is None else np.asarray(weights, dtype=float)
        return Score(name, unit, values, counts, self.names, self.pictures)

    def require(self, has: Callable[[Sample], bool], what: str) -> None:
        """Refuse samples that lack something.

        Args:
            has: whether a sample has it.
            what: it is, and where it comes from.

        Raises:
            InputError: with the first of those that lack it.
        """
        without = [name for name, sample in zip(self.names, self.samples) if not has(sample)]
        if without:
            names_text = ", ".join(without[:3]) + (f" and {len(without) - 3} more" if len(without) > 3 else "")
            raise InputError(f"The samples {names_text} have no {what}.")
