"""Scores of all features for a word, and what can be seen of the best."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float

from mmlens.analysis.features.words import feature_words
from mmlens.analysis.heatmap import HeatMap
from mmlens.analysis.neurons.maps import activation_map
from mmlens.core.contract import checked, checked_result
from mmlens.core.errors import InputError
from mmlens.core.kinds import Count, CountOrZero, Index
from mmlens.core.unit_sets import Units, UnitsLike
from mmlens.core.units import Feature, Unit
from mmlens.core.view import Viewable
from mmlens.inputs.batch import MultimodalBatch
from mmlens.models.hooked import HookedMultimodal

if TYPE_CHECKING:
    import pandas as pd


@checked_result
@dataclass(frozen=True)
class FeatureScores(Viewable):
    """Scores of all features of some dictionaries for one word.

    Attributes:
        scores: by the point of the dictionary, `[feature]`, in logits; the mean over samples.
        errors: by point, the score of what the dictionary does not give back: how much of the word its features miss.
        tokens: the word's token ids.
        word: the word as a string.
        n_samples: how many samples the mean is over.
        model: where they were found, with the dictionaries attached.
        batch: what heat maps are drawn of; of a dataset the first batch.
    """

    scores: Mapping[str, Float[torch.Tensor, "feature"]]
    errors: Mapping[str, float]
    tokens: tuple[int, ...]
    word: str
    n_samples: int
    model: HookedMultimodal = field(repr=False)
    batch: MultimodalBatch = field(repr=False)

    def __repr__(self) -> str:
        best = ", ".join(f"{unit} {self[unit]:.3f}" for unit in self.top(min(3, self.count)))
        errors = ", ".join(f"{value:.3f}" for value in self.errors.values())
        return f"FeatureScores({self.word!r}, {self.count} features at {', '.join(self.scores)}; top: {best}; errors {errors})"

    @checked
    def __getitem__(self, feature: Unit | str) -> float:
        unit = Unit.parse(feature) if isinstance(feature, str) else feature
        scores = self.scores.get(unit.hook.removesuffix(f".{Feature.point}"))
        if scores is None or unit.index >= len(scores):
            points = ", ".join(f"{len(values)} at {point}" for point, values in self.scores.items())
            raise InputError(f"{unit} is not among these features, which are {points}.")
        return float(scores[unit.index])

    @property
    def count(self) -> int:
        """How many features there are."""
        return sum(map(len, self.scores.values()))

    @checked
    def top(self, k: Count = 20) -> Units:
        """The k features with the highest score, best first (signed: they raise the word's logit).

        Raises:
            InputError: if k is not in 1..number of features.
        """
        if not 1 <= k <= self.count:
            raise InputError(f"k={k} must lie in 1..{self.count}, the number of features.")
        names = [(point, index) for point, values in self.scores.items() for index in range(len(values))]
        best = torch.cat([values.float() for values in self.scores.values()]).topk(k).indices.tolist()
        return Units(Feature.at(f"{names[i][0]}.{Feature.point}", names[i][1]) for i in best)

    @checked
    def words(self, k: Count = 5, *, features: UnitsLike | None = None) -> list[list[str]]:
        """The k words that each feature writes most; see `mm.features.feature_words`.

        Args:
            k: words per feature.
            features: which; the top 20 by default.
        """
        return feature_words(self.model, self.top(min(20, self.count)) if features is None else features, k=k)

    @checked
    def heatmap(
        self,
        features: UnitsLike | None = None,
        *,
        k: Count = 1,
        batch: MultimodalBatch | None = None,
        sample: Index = 0,
        image: Index = 0,
    ) -> HeatMap:
        """Codes at the picture's positions, as a map over the picture; the dictionaries must be attached.

        Args:
            features: one, several (their mean), or their names; the top `k` by default.
            k: how many.
            batch: another batch than the one that the scores were found on.
            sample, image: which picture.

        Raises:
            NoPlaceError: if the rows have no place in the picture (Q-Formers).
        """
        units = self.top(k) if features is None else Units(features)
        pictures = self.batch if batch is None else batch
        title = ", ".join(map(str, units[:3])) + (" ..." if len(units) > 3 else "")
        return activation_map(self.model, pictures, units, sample=sample, image=image, title=title)

    @checked
    def to_frame(self, k: Count = 20, *, words: CountOrZero = 5) -> "pd.DataFrame":
        """The top k features: rank, name, score and words (none where features do not write into the stream)."""
        import pandas as pd

        best = self.top(k)
        frame = pd.DataFrame(
            {"rank": range(1, k + 1), "feature": list(map(str, best)), "score": [self[f] for f in best]}
        )
        if words and all(unit.part == "language" for unit in best):
            frame["words"] = [" ".join(read) for read in self.words(words, features=best)]
        return frame
