"""Multi-modal neurons: the hidden neurons that write a word into the answer about a picture.

Score of neuron i of layer l for token t, at the position that predicts t (the residual stream is a sum, so this is
what the neuron adds to the token's logit, up to the final norm):

    s[l, i] = q[l, i] * (W_out[l, i] . W_U[:, t])

Source: Pan, Cao, Wang, Yang, Wang, "Finding and Editing Multi-Modal Neurons in Pre-Trained Transformers", Findings of
ACL 2024 (https://arxiv.org/abs/2311.07470), section on neuron contribution.
Departs: q is the exact multiplier of the row, the input of the down projection (`activation="down_in"`). The published
code took the activation function's output (`activation="act"`), which leaves out the gate's partner in gated MLPs and
can have the wrong sign. A word of several tokens is scored at each of them, not at its first alone.
"""

from collections.abc import Iterator, Mapping, Sequence

import torch
from jaxtyping import Float

from mmlens.analysis.neurons.gradient import Where
from mmlens.analysis.neurons.methods import Method, Path, Scoring
from mmlens.analysis.neurons.points import Activation, NeuronLayers, neuron_layers
from mmlens.analysis.neurons.scores import NeuronScores, SampleTop
from mmlens.analysis.neurons.token_targets import asked_words, tokens_of, written
from mmlens.analysis.samples import Dataset, batches
from mmlens.core.errors import InputError
from mmlens.core.names import Part
from mmlens.inputs.batch import MultimodalBatch
from mmlens.models.hooked import Batch, HookedMultimodal


def find_neurons(
    model: HookedMultimodal,
    data: Batch | Dataset,
    *,
    token: str | int,
    method: Method = "contribution",
    part: Part = "language",
    stack: str | None = None,
    activation: Activation = "down_in",
    positions: Where | None = None,
    steps: int = 20,
    path: Path = "together",
    seed: int = 0,
    keep: int = 0,
    prompt: str | None = None,
    batch_size: int = 8,
    progress: bool = True,
) -> NeuronScores:
    """Score every neuron by what it does for a word that the model is about to say.

    With q the neuron's activation at the position that predicts token t, and w its row of `W_out`:

        contribution         q * (w . W_U[:, t])
        direct_effect        q * (w . gain * W_U[:, t]) / scale: the same with the norms' divisors held as they were, so that
                             all scores, attention, embedding and biases add up to the logit
        gradient             sum over positions of q * d logit / d q
        integrated_gradient  q * (mean of d logit / d q, while q goes from 0 to its value); sums to the logit lost with all at 0
        activation           q
        random               uniform numbers

    A word of several tokens is taken as said (teacher forcing), each token is scored where it is predicted, and the scores
    add up. Scores of several samples are averaged.

    Args:
        model: the hooked model.
        data: a batch whose last position predicts the word (`model.extend(batch, tokens)` puts generated tokens first), or a
            dataset of pictures, which is read batch by batch.
        token: the word, exactly as the tokenizer writes it, or a token's id.
        method: see above. `"random"` is the control.
        part: whose neurons: `"language"`, or `"vision"` and `"projector"` through the gradient methods.
        stack: which blocks of the part, where it has several lists of them.
        activation: what q is: `"down_in"`, the exact multiplier of the row, or `"act"` as in the published code; for
            contribution and activation.
        positions: what the gradient methods sum over: `"last"` (the predicting position, default), `"image"` or `"all"`;
            always all rows outside the language model.
        steps: for integrated gradients.
        path: `"together"`: all layers go from zero at once, `steps` passes; `"each"`: layer by layer as published, that many
            for each layer.
        seed: of the random scores.
        keep: also keep each sample's own top so many, as `NeuronScores.samples`.
        prompt, batch_size, progress: of a dataset: what samples without a prompt are asked; samples at a time; show a bar.

    Returns:
        Scores for all neurons, in logits (activation: in its own unit), with `.top(k)`, `.words()`, `.heatmap()`, `.mask()`.

    Raises:
        InputError: before any forward pass, for a word that the tokenizer does not know, methods and settings that do not
            go together, and parts whose neurons no module holds (mixtures of experts); for `direct_effect`, after one, in
            families whose stream is no sum.

    Example:
        >>> neurons = find_neurons(model, batch, token="circle", method="direct_effect")
        >>> neurons.scores.shape == (model.cfg.n_layers, model.cfg.d_mlp)
        True

    Source: contribution: Pan et al., 2024 (see the module). gradient: Schwettmann et al., "Multimodal Neurons in Pretrained
    Text-Only Transformers", 2023 (https://arxiv.org/abs/2308.01544), attribution score. integrated_gradient: Dai et al.,
    "Knowledge Neurons in Pretrained Transformers", ACL 2022 (https://arxiv.org/abs/2104.08696), eq. 4.
    *Departs:* gradients are those of the logit, not of the probability, and by default of the predicting position alone;
    integrated gradients use midpoints, and by default take all layers along one path.
    """
    scoring = Scoring(method, activation, positions, steps, path, seed)
    return score_words(
        model,
        data,
        [token],
        scoring,
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
    scoring: Scoring | None = None,
    *,
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
        scoring: the method and its settings; contribution by default.
        part, stack, keep, prompt, batch_size, progress: as for `find_neurons`.

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
    scoring = (scoring or Scoring()).checked(model, layers)
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
            word=word.strip() if isinstance(word, str) else written(model, tokens),
            method=scoring.method,
            part=part,
            stack=layers.stack,
            settings=scoring.settings(),
            n_samples=mean.count,
            samples=tuple(mean.kept[number]),
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
    scoring: Scoring,
    layers: NeuronLayers,
) -> Float[torch.Tensor, "word sample layer neuron"]:
    """Scores of every word in every sample of a batch."""
    total = torch.zeros(())
    for asked in asked_words(model, batch, words):
        total = total + asked.summed(scoring.entries(model, asked, layers), len(words) * batch.size)
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
        self.kept: list[list[SampleTop]] = [[] for _ in range(words)]
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
            for kept, of_word in zip(self.kept, scores, strict=True):
                best = of_word.flatten(1).topk(self._keep, dim=1)
                kept += [
                    SampleTop(name, indices, values)
                    for name, indices, values in zip(names, best.indices, best.values, strict=True)
                ]
