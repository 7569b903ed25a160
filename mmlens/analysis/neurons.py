"""Multi-modal neurons: the hidden neurons of the language model that write a word into the caption.

Score of neuron i of layer l for token t, at the position that predicts t (the residual stream is a sum, so this is
what the neuron adds to the token's logit, up to the final norm):

    s[l, i] = q[l, i] * (W_out[l, i] . W_U[:, t])

Source: Pan, Cao, Wang, Yang, Wang, "Finding and Editing Multi-Modal Neurons in Pre-Trained Transformers", Findings of
ACL 2024 (https://arxiv.org/abs/2311.07470), section on neuron contribution.
Departs: q is the exact multiplier of the row, the input of the down projection (`activation="down_in"`). The published
code took the activation function's output (`activation="act"`), which leaves out the gate's partner in gated MLPs and
can have the wrong sign.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Float

from mmlens.analysis.heatmap import HeatMap
from mmlens.core.errors import InputError
from mmlens.core.places import Neuron
from mmlens.models.batch import MultimodalBatch
from mmlens.models.hooked import HookedMultimodal

if TYPE_CHECKING:
    import pandas as pd

Activation = Literal["down_in", "act"]
_POINTS: dict[str, str] = {"down_in": "mlp.hook_post", "act": "mlp.hook_act"}


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


@torch.no_grad()
def find_neurons(
    model: HookedMultimodal,
    batch: MultimodalBatch,
    *,
    token: str | int,
    method: Literal["contribution"] = "contribution",
    activation: Activation = "down_in",
) -> NeuronScores:
    """Score every neuron of the language model by what it adds to a token's logit at the last position.

    Args:
        model: the hooked model.
        batch: whose last position predicts the token; `model.extend(batch, tokens)` puts generated tokens first. Scores
            of several samples are averaged.
        token: a word that is one token, or an id.
        method: `"contribution"`, the formula in this module's docstring.
        activation: `"down_in"` (exact, default) or `"act"` (as in the published code).

    Returns:
        Scores for all neurons, with `.top(k)`, `.words()`, `.heatmap()`, `.mask()`.

    Raises:
        InputError: if the word is not a single token, or the family has no activation module to read for `"act"`.
    """
    if method != "contribution":
        raise InputError(f"method={method!r} is unknown; 'contribution' is the one there is.")
    if activation not in _POINTS:
        raise InputError(f"activation={activation!r} must be one of {', '.join(map(repr, _POINTS))}.")
    token = model.to_single_token(token) if isinstance(token, str) else int(token)
    point = f"blocks.*.{_POINTS[activation]}"
    _, cache = model.run_with_cache(batch, names=point, positions="last")
    direction = model.W_U[:, token]
    scores = [
        # one column of W_out W_U: [neuron]; the whole product would be [neuron vocab] per layer
        cache[f"blocks.{layer}.{_POINTS[activation]}"][:, 0].float().mean(0) * (block.mlp.W_out @ direction).float()
        for layer, block in enumerate(model.blocks)
    ]
    return NeuronScores(
        torch.stack(scores).cpu(), token, model.to_string(token).strip(), method, activation, model, batch
    )


@torch.no_grad()
def neuron_words(model: HookedMultimodal, neurons: Sequence[Neuron], *, k: int = 5) -> list[list[str]]:
    """The k words that each neuron's row of `W_out` raises most (a logit lens of the row, without the final norm).

    Args:
        model: the hooked model.
        neurons: language-model neurons.
        k: words per neuron.

    Returns:
        One list of words per neuron, best first.
    """
    others = [str(neuron) for neuron in neurons if neuron.part != "language"]
    if others:
        raise InputError(
            f"{', '.join(others[:5])} do not write into the language model's stream, so their rows are not words."
        )
    rows = torch.stack([model.blocks[neuron.layer].mlp.W_out[neuron.index] for neuron in neurons])
    best = (rows @ model.W_U).topk(k, dim=-1).indices
    return [[model.to_string(token).strip() for token in row] for row in best]


def random_neurons(model: HookedMultimodal, *, like: Sequence[Neuron], seed: int) -> list[Neuron]:
    """As many random neurons from the same layers, none of them among `like`: the control for every finding.

    Args:
        model: the hooked model.
        like: the neurons to match, layer by layer.
        seed: of the draw.

    Raises:
        InputError: if a layer has too few other neurons.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn: list[Neuron] = []
    for part, layer in sorted({(neuron.part, neuron.layer) for neuron in like}):
        taken = {neuron.index for neuron in like if (neuron.part, neuron.layer) == (part, layer)}
        width = model.graph[Neuron(layer, 0, part).hook].width or 0
        free = [i for i in torch.randperm(width, generator=generator).tolist() if i not in taken]
        if len(free) < len(taken):
            raise InputError(
                f"Layer {layer} of {part} has {len(free)} other neurons, fewer than the {len(taken)} to match."
            )
        drawn += [Neuron(layer, i, part) for i in free[: len(taken)]]
    return drawn


@torch.no_grad()
def activation_map(
    model: HookedMultimodal,
    batch: MultimodalBatch,
    neurons: Sequence[Neuron],
    *,
    activation: Activation = "down_in",
    sample: int = 0,
    image: int = 0,
    title: str = "",
) -> HeatMap:
    """The mean activation of some neurons at each picture position, as a map over the picture.

    Args:
        model: the hooked model.
        batch: what to run on.
        neurons: language-model neurons.
        activation: as for `find_neurons`.
        sample, image: which picture.
        title: kept in the map.

    Raises:
        NoPlaceError: if the language model's image tokens have no place (Q-Formers).
        InputError: if there are no neurons.
    """
    if not neurons:
        raise InputError("No neurons were given to map.")
    grid = batch.layout.grid(sample=sample, image=image)
    names = {neuron: f"blocks.{neuron.layer}.{_POINTS[activation]}" for neuron in neurons}
    _, cache = model.run_with_cache(batch, names=sorted(set(names.values())))
    values = torch.stack([cache[name][sample, :, neuron.index].float() for neuron, name in names.items()]).mean(0)
    raster = batch.layout.raster(values, sample=sample, image=image)
    low, high = grid.boxes[:, :2].min(0).values.tolist(), grid.boxes[:, 2:].max(0).values.tolist()
    return HeatMap(raster, batch.layout.place(sample, image).size, (*low, *high), title)
