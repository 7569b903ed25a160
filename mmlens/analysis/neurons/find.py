"""Multi-modal neurons: the hidden neurons that write a word into the answer about a picture.

`find_neurons` scores all neurons of a part for a word, by one of the methods in `mmlens.analysis.neurons.methods`. A word of
several tokens is taken as said (teacher forcing), every token is scored where it is predicted, and the scores add up.

Source: Pan, Cao, Wang, Yang, Wang, "Finding and Editing Multi-Modal Neurons in Pre-Trained Transformers", Findings of ACL
2024 (https://arxiv.org/abs/2311.07470).
*Departs:* a word of several tokens is scored at each of them, not at its first alone.
"""

from collections.abc import Iterator, Mapping, Sequence

import torch
from jaxtyping import Float

from mmlens.analysis.neurons.methods import NEURON_METHODS, NeuronChoice, NeuronMethod
from mmlens.analysis.neurons.points import NeuronLayers, neuron_layers
from mmlens.analysis.neurons.scores import NeuronScores, SampleTop
from mmlens.analysis.neurons.token_targets import token_text, tokens_of, word_targets
from mmlens.analysis.samples import Dataset, batches
from mmlens.core.contract import checked
from mmlens.core.errors import InputError
from mmlens.core.kinds import Count, Text
from mmlens.core.names import Part
from mmlens.inputs.batch import Batch, MultimodalBatch
from mmlens.models.hooked import HookedMultimodal


@checked
def find_neurons(
    model: HookedMultimodal,
    data: Batch | Dataset,
    *,
    token: str | int,
    method: NeuronChoice = "contribution",
    part: Part = "language",
    stack: str | None = None,
    keep: int = 0,
    prompt: Text | None = None,
    batch_size: Count = 8,
    progress: bool = True,
) -> NeuronScores:
    """Score every neuron by what it does for a word that the model is about to say.

    Scores of several samples are averaged.

    Args:
        model: the hooked model.
        data: a batch whose last position predicts the word (`model.extend(batch, tokens)` puts generated tokens first), or a
            dataset of pictures, which is read batch by batch.
        token: the word, exactly as the tokenizer writes it, or a token's id.
        method: a name (`"contribution"`, `"direct_effect"`, `"gradient_x_activation"`, `"integrated_gradients"`, `"activation"`,
            or `"random"`, the control), or settings: `mm.neurons.IntegratedGradients(steps=50)`. docs/methods.md lists them.
        part: whose neurons: `"language"`, or `"vision"` and `"projector"` through the gradient methods.
        stack: which blocks of the part, where it has several lists of them.
        keep: also keep each sample's own top so many, as `NeuronScores.samples`.
        prompt, batch_size, progress: of a dataset: what samples without a prompt are asked; samples at a time; show a bar.

    Returns:
        Scores for all neurons, in logits (activation: in its own unit), with `.top(k)`, `.words()`, `.heatmap()`, `.mask()`.

    Raises:
        InputError: before any forward pass, for a word that the tokenizer does not know, a method that the part does not have,
            and parts whose neurons no module holds (mixtures of experts); for `direct_effect`, after one, in families whose
            stream is no sum.

    Example:
        >>> neurons = find_neurons(model, batch, token="circle", method="direct_effect")
        >>> neurons.scores.shape == (model.cfg.n_layers, model.cfg.d_mlp)
        True
    """
    return score_words(
        model,
        data,
        [token],
        method=method,
        part=part,
        stack=stack,
        keep=keep,
        prompt=prompt,
        batch_size=batch_size,
        progress=progress,
    )[0]


@torch.no_grad()
def score_words(
    model: HookedMultimodal,
    data: Batch | Dataset,
    words: Sequence[str | int],
    *,
    method: NeuronChoice = "contribution",
    part: Part = "language",
    stack: str | None = None,
    keep: int = 0,
    prompt: str | None = None,
    batch_size: int = 8,
    progress: bool = True,
) -> list[NeuronScores]:
    """Score every neuron for several words; those of one token share every forward pass.

    Args:
        model: the hooked model.
        data: as for `find_neurons`.
        words: words or ids, each as the next thing that is said.
        method, part, stack, keep, prompt, batch_size, progress: as for `find_neurons`.

    Returns:
        One result per word, in their order.

    Raises:
        InputError: as for `find_neurons`.

    Example:
        >>> red, blue = score_words(model, batch, ["red", "blue"])
        >>> red.word, blue.word
        ('red', 'blue')
    """
    layers = neuron_layers(model, part, stack)
    scoring = NEURON_METHODS.get(method)
    scoring.check(model, layers)
    ids = [tokens_of(model, word) for word in words]
    if not ids:
        raise InputError("No words were given to score neurons for.")
    total = layers.count * layers.width
    if not 0 <= keep <= total:
        raise InputError(f"keep={keep} must lie in 0..{total}, the number of neurons.")
    dtype = torch.promote_types(next(model.hf_model.parameters()).dtype, torch.float32)
    mean = _Mean(len(ids), layers, keep)
    first: MultimodalBatch | None = None
    for names, batch in runs_of(model, data, prompt, batch_size, progress, "neurons"):
        first = batch if first is None else first
        mean.add(_scores(model, batch, ids, scoring, layers), names)
    if first is None:
        raise InputError("The dataset is empty: there is no sample to score neurons on.")
    return [
        NeuronScores(
            scores=mean.scores[number].to(dtype),
            tokens=tokens,
            word=word.strip() if isinstance(word, str) else token_text(model, tokens),
            method=scoring.name,
            part=part,
            stack=layers.stack,
            settings=scoring.settings,
            n_samples=mean.count,
            samples=tuple(mean.tops[number]),
            model=model,
            batch=first,
        )
        for number, (word, tokens) in enumerate(zip(words, ids, strict=True))
    ]


def runs_of(
    model: HookedMultimodal, data: Batch | Dataset, prompt: str | None, batch_size: int, progress: bool, desc: str
) -> Iterator[tuple[list[str], MultimodalBatch]]:
    """A batch, or a dataset batch by batch, with the names of the samples."""
    if isinstance(data, MultimodalBatch | Mapping | torch.Tensor):
        batch = model.batch(data)
        yield [str(number) for number in range(batch.size)], batch.to(model.device)
        return
    for samples, batch in batches(model, data, batch_size=batch_size, prompt=prompt, progress=progress, desc=desc):
        yield [sample.name or sample.key for sample in samples], batch


def _scores(
    model: HookedMultimodal,
    batch: MultimodalBatch,
    words: Sequence[tuple[int, ...]],
    method: NeuronMethod,
    layers: NeuronLayers,
) -> Float[torch.Tensor, "word sample layer neuron"]:
    """Scores of every word in every sample of a batch."""
    total = torch.zeros(())
    for targets in word_targets(model, batch, words):
        total = total + targets.summed(method.scores(model, targets, layers), len(words) * batch.size)
    return total.reshape(len(words), batch.size, layers.count, layers.width)


class _Mean:
    """The running mean over samples, and each sample's top if asked for.

    Args:
        words: number of words.
        layers: the neurons.
        keep: how many of each sample to keep.
    """

    def __init__(self, words: int, layers: NeuronLayers, keep: int):
        self.count = 0
        self.tops: list[list[SampleTop]] = [[] for _ in range(words)]
        self._keep = keep
        self._sum = torch.zeros(words, layers.count, layers.width, dtype=torch.float64)

    @property
    def scores(self) -> Float[torch.Tensor, "word layer neuron"]:
        """The mean so far."""
        return self._sum / self.count

    def add(self, scores: Float[torch.Tensor, "word sample layer neuron"], names: Sequence[str]) -> None:
        """Count a batch."""
        self.count += len(names)
        self._sum += scores.double().sum(1)
        if self._keep:
            for tops, of_word in zip(self.tops, scores, strict=True):
                best = of_word.flatten(1).topk(self._keep, dim=1)
                tops += [
                    SampleTop(name, indices, values)
                    for name, indices, values in zip(names, best.indices, best.values, strict=True)
                ]
