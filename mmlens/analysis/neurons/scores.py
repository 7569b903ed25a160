"""Scores of all neurons for a word, and what can be seen of the best."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Float

from mmlens.analysis.heatmap import HeatMap
from mmlens.analysis.neurons.maps import activation_map
from mmlens.analysis.neurons.points import Activation
from mmlens.analysis.neurons.words import neuron_words
from mmlens.core.errors import InputError
from mmlens.core.places import Neuron
from mmlens.models.batch import MultimodalBatch
from mmlens.models.hooked import HookedMultimodal

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class NeuronScores:
    """Scores of all language-model neurons for one token.

    Attributes:
        scores: `[layer neuron]`, in logits before the final norm's division; the mean over the batch's samples.
        token: the token's id.
        word: the token as a string.
        method: `"contribution"`.
        activation: which multiplier was used, `"down_in"` (exact) or `"act"` (as published).
        model, batch: where they were found.

    Example:
        >>> from mmlens import find_neurons
        >>> neurons = find_neurons(model, batch, token="circle")
        >>> len(neurons.top(5))
        5
        >>> neurons.heatmap("mean").values.shape == batch.layout.grid().shape
        True
    """

    scores: Float[torch.Tensor, "layer neuron"]
    token: int
    word: str
    method: str
    activation: Activation
    model: HookedMultimodal = field(repr=False)
    batch: MultimodalBatch = field(repr=False)

    def __repr__(self) -> str:
        best = ", ".join(f"{neuron} {self[neuron]:.3f}" for neuron in self.top(3))
        layers, width = self.scores.shape
        return f"NeuronScores({self.word!r}, {self.method}, {layers} layers x {width} neurons; top: {best})"

    def __getitem__(self, neuron: Neuron) -> float:
        return float(self.scores[neuron.layer, neuron.index])

    def top(self, k: int = 20) -> list[Neuron]:
        """The k neurons with the highest score, best first (signed: they raise the token's logit).

        Raises:
            InputError: if k is not in 1..number of neurons.
        """
        if not 1 <= k <= self.scores.numel():
            raise InputError(f"k={k} must lie in 1..{self.scores.numel()}, the number of neurons.")
        best = self.scores.flatten().topk(k).indices.tolist()
        return [Neuron(*divmod(i, self.scores.shape[1])) for i in best]

    def words(self, k: int = 5, *, neurons: Sequence[Neuron] | None = None) -> list[list[str]]:
        """The k words that each neuron writes most: the largest entries of its row of `W_out` times `W_U`.

        Args:
            k: words per neuron.
            neurons: which; the top 20 by default.
        """
        return neuron_words(self.model, self.top() if neurons is None else neurons, k=k)

    def heatmap(
        self, neurons: Neuron | Sequence[Neuron] | Literal["mean"] = "mean", *, k: int = 20, sample: int = 0
    ) -> HeatMap:
        """Activations at the picture's positions, as a map over the picture.

        Args:
            neurons: one neuron, several (their mean), or `"mean"` of the top `k`.
            k: how many for `"mean"`.
            sample: which sample's (first) picture.

        Raises:
            NoPlaceError: if the language model's image tokens have no place (Q-Formers).
        """
        if isinstance(neurons, str):
            chosen, title = self.top(k), f"mean of the top {k} neurons for {self.word!r}"
        else:
            chosen = [neurons] if isinstance(neurons, Neuron) else list(neurons)
            title = ", ".join(map(str, chosen[:3])) + (" ..." if len(chosen) > 3 else "")
        return activation_map(self.model, self.batch, chosen, activation=self.activation, sample=sample, title=title)

    def mask(self, percentile: float = 95.0, *, k: int = 20) -> torch.Tensor:
        """The pixels above a percentile of the mean map of the top `k`, `[height width]`, bool."""
        return self.heatmap("mean", k=k).mask(percentile)

    def layers(self, k: int = 20) -> list[int]:
        """How many of the top k neurons lie in each layer."""
        counts = [0] * len(self.scores)
        for neuron in self.top(k):
            counts[neuron.layer] += 1
        return counts

    def to_frame(self, k: int = 20, *, words: int = 5) -> "pd.DataFrame":
        """The top k neurons: rank, layer, neuron, score and words."""
        import pandas as pd

        best = self.top(k)
        read = self.words(words, neurons=best)
        rows = [
            {"rank": rank, "layer": n.layer, "neuron": n.index, "score": self[n], "words": " ".join(w)}
            for rank, (n, w) in enumerate(zip(best, read, strict=True), start=1)
        ]
        return pd.DataFrame(rows)
