"""Scores of all neurons for a word, and what can be seen of the best."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Bool, Float
from PIL import Image

from mmlens.analysis.heatmap import HeatMap
from mmlens.analysis.neurons.maps import Shown, activation_map
from mmlens.analysis.neurons.origin import origin_of, require_same
from mmlens.analysis.neurons.points import ActivationPoint
from mmlens.analysis.neurons.sample_top import SampleTop
from mmlens.analysis.neurons.words import neuron_words
from mmlens.core.contract import checked, checked_result
from mmlens.core.errors import InputError
from mmlens.core.kinds import Count, Index, PathLike, Percentile
from mmlens.core.names import Part
from mmlens.core.packing import UNSAVED
from mmlens.core.pictures import drawn_by
from mmlens.core.saved import Saved
from mmlens.core.unit_sets import Units, UnitsLike
from mmlens.core.units import Neuron, Unit
from mmlens.core.view import Viewable
from mmlens.inputs.batch import MultimodalBatch
from mmlens.models.hooked import HookedMultimodal

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure, SubFigure


#: What a heat map can be of: one neuron, several (their mean), or the best.
Mapped = UnitsLike | Literal["mean"]


@checked_result
@dataclass(frozen=True)
class NeuronScores(Viewable, Saved):
    """Scores of all neurons of a part for one word.

    Attributes:
        scores: `[layer neuron]`, in logits (contribution: before the final norm's division); the mean over samples.
        tokens: the word's token ids.
        word: the word as a string.
        method: how they were found; see `find_neurons`.
        part: whose neurons.
        stack: the list of blocks that layers count in; empty for a projector's own hidden layer.
        settings: of the method.
        n_samples: how many samples the mean is over.
        samples: each sample's own best, if they were asked for with `keep`.
        model: where they were found; None for scores read from a file without one.
        batch: what heat maps are drawn of; of a dataset the first batch. Of a caption's nouns it holds the whole caption, so
            that its last position does not predict the noun.
        sample: whose picture heat maps show, if they are not told.
        origin: class and fingerprint of the model, for scores that were read from a file.
        identity: what decided the values: see `mmlens.models.identity.run_identity`; empty where it is not known.

    Example:
        >>> from mmlens import find_neurons
        >>> neurons = find_neurons(model, batch, token="circle")
        >>> len(neurons.top(5))
        5
        >>> neurons.heatmap("mean").values.shape == batch.layout.grid().shape
        True
    """

    scores: Float[torch.Tensor, "layer neuron"]
    tokens: tuple[int, ...]
    word: str
    method: str
    part: Part = "language"
    stack: str = "blocks"
    settings: Mapping[str, Any] = field(default_factory=dict)
    n_samples: int = 1
    samples: tuple[SampleTop, ...] = field(default=(), repr=False)
    model: HookedMultimodal | None = field(default=None, repr=False, metadata=UNSAVED)
    batch: MultimodalBatch | None = field(default=None, repr=False, metadata=UNSAVED)
    sample: int = field(default=0, repr=False)
    origin: tuple[str, str] | None = field(default=None, repr=False)
    identity: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)

    def __repr__(self) -> str:
        best = ", ".join(f"{neuron} {self[neuron]:.3f}" for neuron in self.top(min(3, self.scores.numel())))
        layers, width = self.scores.shape
        over = "" if self.n_samples == 1 else f", mean of {self.n_samples} samples"
        return f"NeuronScores({self.word!r}, {self.method}, {layers} layers x {width} neurons{over}; top: {best})"

    @checked
    def __getitem__(self, neuron: Unit | str) -> float:
        unit = Unit.parse(neuron) if isinstance(neuron, str) else neuron
        layers, width = self.scores.shape
        first, last = self.neuron(0), self.neuron(layers * width - 1)
        if unit.layer >= layers or unit.index >= width or replace(unit, layer=0, index=0) != first:
            raise InputError(f"{unit} is not among these neurons, which are {first} to {last}.")
        return float(self.scores[unit.layer, unit.index])

    @property
    def token(self) -> int:
        """The id of the word's (first) token."""
        return self.tokens[0]

    @property
    def activation(self) -> ActivationPoint:
        """Which activation was read: `"down_in"`, or `"act"` where that was asked for."""
        return self.settings.get("activation", "down_in")

    @checked
    def neuron(self, index: Index) -> Neuron:
        """The neuron at an index of the flattened scores.

        Raises:
            InputError: if there are not so many.
        """
        if index >= self.scores.numel():
            raise InputError(f"index={index} must lie in 0..{self.scores.numel() - 1}, the scores' number.")
        return Neuron(*divmod(int(index), self.scores.shape[1]), self.part, self.stack)

    @checked
    def top(self, k: Count = 20) -> Units:
        """The k neurons with the highest score, best first (signed: they raise the token's logit).

        Raises:
            InputError: if k is not in 1..number of neurons.
        """
        if not 1 <= k <= self.scores.numel():
            raise InputError(f"k={k} must lie in 1..{self.scores.numel()}, the number of neurons.")
        return Units(map(self.neuron, self.scores.flatten().topk(k).indices.tolist()))

    @checked
    def words(self, k: Count = 5, *, neurons: UnitsLike | None = None) -> list[list[str]]:
        """The k words that each neuron writes most: the largest entries of its row of `W_out` times `W_U`.

        Args:
            k: words per neuron.
            neurons: which; the top 20 by default.

        Raises:
            InputError: without a model, or for neurons outside the language model, whose rows are no words.
        """
        best = self.top(min(20, self.scores.numel())) if neurons is None else neurons
        return neuron_words(self._require_model("Words of neurons"), best, k=k)

    def _require_model(self, task: str) -> HookedMultimodal:
        if self.model is None:
            raise InputError(f"{task} need the model, and these scores were read without one: load(path, model=...).")
        return self.model

    @checked
    def heatmap(
        self,
        neurons: Mapped = "mean",
        *,
        k: Count = 20,
        shown: Shown = "activation",
        batch: MultimodalBatch | None = None,
        sample: Index | None = None,
        image: Index = 0,
    ) -> HeatMap:
        """Activations at the picture's positions, as a map over the picture.

        Args:
            neurons: one neuron, several (their mean), their names, or `"mean"` of the top `k`.
            k: how many for `"mean"`.
            shown: activations as they are (as published), or their magnitudes.
            batch: another batch than the one that the scores were found on.
            sample, image: which picture; by default that of the sample that was scored, or the first.

        Raises:
            NoPlaceError: if the part's rows have no place in the picture (Q-Formers).
            InputError: without a model or a batch.
        """
        if isinstance(neurons, str) and neurons == "mean":
            units, title = self.top(k), f"mean of the top {k} neurons for {self.word!r}"
        else:
            units = Units(neurons)
            title = ", ".join(map(str, units[:3])) + (" ..." if len(units) > 3 else "")
        model = self._require_model("Heat maps")
        pictures = self.batch if batch is None else batch
        if pictures is None:
            raise InputError("These scores were read from a file, which holds no picture; pass batch=.")
        return activation_map(
            model,
            pictures,
            units,
            activation=self.activation,
            shown=shown,
            sample=self._sample(sample, batch),
            image=image,
            title=title,
        )

    def _sample(self, sample: int | None, batch: MultimodalBatch | None) -> int:
        """The sample whose picture is meant: in our own batch, the one that was scored."""
        if sample is not None:
            return sample
        return self.sample if batch is None else 0

    @checked
    def mask(
        self,
        percentile: Percentile = 95.0,
        *,
        neurons: Mapped = "mean",
        k: Count = 20,
        shown: Shown = "activation",
        batch: MultimodalBatch | None = None,
        sample: Index | None = None,
        image: Index = 0,
    ) -> Bool[torch.Tensor, "height width"]:
        """The picture's pixels above a percentile of a heat map; arguments as for `heatmap`."""
        return self.heatmap(neurons, k=k, shown=shown, batch=batch, sample=sample, image=image).mask(percentile)

    @checked
    def overlay(
        self,
        neurons: Mapped = "mean",
        *,
        k: Count = 20,
        shown: Shown = "activation",
        batch: MultimodalBatch | None = None,
        sample: Index | None = None,
        image: Index = 0,
        alpha: float = 0.5,
        percentile: Percentile | None = None,
    ) -> Image.Image:
        """The picture under a heat map in colours, or with the mask above a percentile bright.

        Args:
            neurons, k, shown, batch, sample, image: as for `heatmap`.
            alpha: weight of the colours.
            percentile: show the mask in place of the colours.

        Raises:
            InputError: as for `heatmap`, or if the batch was made of tensors, so that there is no picture to draw on.
        """
        pictures = self.batch if batch is None else batch
        images = () if pictures is None else pictures.images
        if pictures is not None and not images:
            raise InputError(
                "The batch was made of tensors, so there is no picture to draw on; make it with model.prepare(text, images=...), "
                "or use heatmap(...).overlay(picture)."
            )
        heat = self.heatmap(neurons, k=k, shown=shown, batch=batch, sample=sample, image=image)
        return heat.overlay(images[self._sample(sample, batch)][image], alpha=alpha, percentile=percentile)

    @checked
    def layers(self, k: Count = 20) -> list[int]:
        """How many of the top k neurons lie in each layer."""
        counts = [0] * len(self.scores)
        for neuron in self.top(k):
            counts[neuron.layer] += 1
        return counts

    @checked
    def to_frame(self, k: Count = 20, *, words: Count = 5) -> "pd.DataFrame":
        """The top k neurons: rank, layer, neuron, score and words (none without a model, or outside the language model)."""
        import pandas as pd

        best = self.top(k)
        frame = pd.DataFrame({
            "rank": range(1, k + 1),
            "layer": [neuron.layer for neuron in best],
            "neuron": [neuron.index for neuron in best],
            "score": [self[neuron] for neuron in best],
        })  # fmt: skip
        if words and self.model is not None and self.part == "language":
            frame["words"] = [" ".join(read) for read in self.words(words, neurons=best)]
        return frame

    @checked
    def plot(self, k: Count = 20, *, figure: "Figure | SubFigure | None" = None) -> "Figure":
        """The top k by layer, and the best of them with their words.

        Args:
            k: how many are counted by layer.
            figure: a matplotlib figure or subfigure to draw into; a new one by default.
        """
        return drawn_by("neurons.plot_scores")(self, k=k, figure=figure)

    def _written(self) -> "NeuronScores":
        return self if self.model is None else replace(self, origin=origin_of(self.model))

    @classmethod
    @checked
    def load(cls, path: PathLike, *, model: HookedMultimodal | None = None) -> "NeuronScores":
        """Read scores that `save` wrote.

        Args:
            path: the file.
            model: the model that they belong to, for words and heat maps; everything else works without.

        Raises:
            InputError: if there is no such file, or the model is another one.
            DamagedFileError: if it was changed or cut off.
        """
        return super().load(path)._with(model, path)

    def _with(self, model: HookedMultimodal | None, path: PathLike) -> "NeuronScores":
        """The scores that a file gave, with their model where there is one."""
        if model is None:
            return self
        require_same(path, self.origin, model)
        return replace(self, model=model)
