"""Multi-modal neurons: the hidden neurons that write a word into the answer about a picture.

`find_neurons` scores all neurons of a part for a word, by one of the methods in `mmlens.analysis.neurons.methods`. A word of
several tokens is taken as said (teacher forcing), every token is scored where it is predicted, and the scores add up.

Source: Pan, Cao, Wang, Yang, Wang, "Finding and Editing Multi-Modal Neurons in Pre-Trained Transformers", Findings of ACL
2024 (https://arxiv.org/abs/2311.07470).
*Departs:* a word of several tokens is scored at each of them, not at its first alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from jaxtyping import Float

from mmlens.analysis.neurons.methods import NEURON_METHODS, NeuronChoice, NeuronMethod
from mmlens.analysis.neurons.points import NeuronLayers, neuron_layers
from mmlens.analysis.neurons.sample_top import SampleTop
from mmlens.analysis.neurons.scores import NeuronScores
from mmlens.analysis.neurons.token_targets import score_targets, token_text, tokens_of, word_targets
from mmlens.analysis.samples.chunks import DataChunk, chunks_of, shared_chunks
from mmlens.analysis.samples.sample import Data, length_of
from mmlens.core.checkpoint import Checkpoint
from mmlens.core.contract import checked
from mmlens.core.errors import InputError
from mmlens.core.kinds import Count, CountOrZero, PathLike, Text
from mmlens.core.names import Part
from mmlens.inputs.batch import MultimodalBatch
from mmlens.inputs.picture_tensors import require_running
from mmlens.models.hooked import HookedMultimodal
from mmlens.models.identity import run_identity


@checked
def find_neurons(
    model: HookedMultimodal,
    data: Data,
    *,
    token: str | int | None = None,
    method: NeuronChoice = "contribution",
    part: Part = "language",
    stack: str | None = None,
    keep: CountOrZero = 0,
    prompt: Text | None = None,
    batch_size: Count = 8,
    checkpoint: PathLike | None = None,
    progress: bool = True,
) -> NeuronScores:
    """Score every neuron by what it does for a word that the model is about to say.

    Scores of several samples are averaged.

    Args:
        model: the hooked model.
        data: a batch whose last position predicts the word (`model.extend(batch, tokens)` puts generated tokens first), or a
            dataset of pictures, which is read batch by batch.
        token: the word, exactly as the tokenizer writes it, or a token's id. None in dual encoders, whose neurons are scored for
            every picture's score with its own text.
        method: a name (`"contribution"`, `"direct_effect"`, `"gradient_x_activation"`, `"integrated_gradients"`, `"activation"`,
            or the controls `"weights"` and `"random"`), or settings: `mm.neurons.IntegratedGradients(steps=50)`. docs/methods.md
            lists them.
        part: whose neurons: `"language"`, or `"vision"` and `"projector"` through the gradient methods (in CLIP, whose vision
            tower's embedding is made of one row, through all).
        stack: which blocks of the part, where it has several lists of them.
        keep: also keep each sample's own top so many, as `NeuronScores.samples`.
        prompt, batch_size, progress: of a dataset: what samples without a prompt are asked; samples at a time; show a bar.
        checkpoint: a file that keeps the sum so far; the same call goes on from it.

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
    if (token is None) != (model.family.score is not None):
        raise InputError(
            f"find_neurons(token={token!r}): {model.family.name} "
            + (
                "writes words: name one, token='dog'."
                if token is None
                else "is a dual encoder, which writes no words; leave token out, and neurons are scored for the image-text score."
            )
        )
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
        checkpoint=checkpoint,
        progress=progress,
    )[0]


@torch.no_grad()
def score_words(
    model: HookedMultimodal,
    data: Data,
    words: Sequence[str | int | None],
    *,
    method: NeuronChoice = "contribution",
    part: Part = "language",
    stack: str | None = None,
    keep: CountOrZero = 0,
    prompt: str | None = None,
    batch_size: int = 8,
    checkpoint: PathLike | None = None,
    progress: bool = True,
) -> list[NeuronScores]:
    """Score every neuron for several words; those of one token share every forward pass.

    Args:
        model: the hooked model.
        data: as for `find_neurons`.
        words: words or ids, each as the next thing that is said; None for the score of a dual encoder.
        method, part, stack, keep, prompt, batch_size, checkpoint, progress: as for `find_neurons`.

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
    ids = [() if word is None else tokens_of(model, word) for word in words]
    if not ids:
        raise InputError("No words were given to score neurons for.")
    total = layers.count * layers.width
    if not 0 <= keep <= total:
        raise InputError(f"keep={keep} must lie in 0..{total}, the number of neurons.")
    dtype = torch.promote_types(next(model.hf_model.parameters()).dtype, torch.float32)
    chunks = chunks_of(model, data, prompt, batch_size)
    if (first := next(chunks, None)) is None:
        raise InputError("The dataset is empty: there is no sample to score neurons on.")
    results = Checkpoint(
        checkpoint,
        "scoring of neurons",
        lambda exact: run_identity(
            model, exact, tokens=ids, method=scoring, part=(part, layers.stack), keep=(keep, batch_size)
        ),
    )
    mean = _Mean(results, len(ids), layers)

    def work(chunk: DataChunk) -> _Sums:
        require_running(chunk.batch, layers.part, layers.names()[0])
        return _Sums.of(_scores(model, chunk.batch, ids, scoring, layers), chunk.names, keep)

    every, show = chain([first], chunks), progress and first.prepared is None
    for _, sums in shared_chunks(
        model, every, work, checkpoint=results, desc="neurons", total=length_of(data), progress=show
    ):
        mean.add(sums)
    scores = []
    for number, (word, tokens) in enumerate(zip(words, ids, strict=True)):
        scores.append(NeuronScores(
            mean.scores[number].to(dtype), tokens, _word_name(model, word, tokens), scoring.name, part, layers.stack,
            settings=scoring.settings, n_samples=mean.count, samples=mean.tops(number, dtype),
            model=model, batch=first.batch, identity=results.identity,
        ))  # fmt: skip
    return scores


def _word_name(model: HookedMultimodal, word: str | int | None, tokens: tuple[int, ...]) -> str:
    if word is None:
        return "image-text score"
    return word.strip() if isinstance(word, str) else token_text(model, tokens)


def _scores(
    model: HookedMultimodal,
    batch: MultimodalBatch,
    words: Sequence[tuple[int, ...]],
    method: NeuronMethod,
    layers: NeuronLayers,
) -> Float[torch.Tensor, "word sample layer neuron"]:
    """Scores of every word in every sample of a batch."""
    total = torch.zeros(())
    for targets in score_targets(batch) if batch.apart else word_targets(model, batch, words):
        total = total + targets.summed(method.scores(model, targets, layers), len(words) * batch.size)
    return total.reshape(len(words), batch.size, layers.count, layers.width)


@dataclass(frozen=True)
class _Sums:
    """What is kept of the scores of some samples.

    Attributes:
        total: the sum of their scores, `[word layer neuron]`.
        count: how many they are.
        tops: of each word, each sample's name with indices and scores of its best.
    """

    total: torch.Tensor
    count: int
    tops: list[list[tuple[str, list[int], list[float]]]]

    @classmethod
    def of(cls, scores: Float[torch.Tensor, "word sample layer neuron"], names: Sequence[str], keep: int) -> "_Sums":
        """That of samples, of each of which so many best are kept."""
        best = [of_word.flatten(1).topk(keep, dim=1) for of_word in scores] if keep else []
        tops = [list(zip(names, top.indices.tolist(), top.values.tolist(), strict=True)) for top in best]
        return cls(scores.double().sum(1), len(names), tops)


class _Mean:
    """The running mean over samples, and each sample's top if asked for.

    Args:
        results: keeps them.
        words: number of words.
        layers: the neurons.
    """

    def __init__(self, results: Checkpoint, words: int, layers: NeuronLayers):
        self._results = results
        results.tensors.setdefault("sum", torch.zeros(words, layers.count, layers.width, dtype=torch.float64))
        results.parts.setdefault("count", 0)
        results.parts.setdefault("tops", [[] for _ in range(words)])

    @property
    def count(self) -> int:
        """Number of samples so far."""
        return self._results.parts["count"]

    @property
    def scores(self) -> Float[torch.Tensor, "word layer neuron"]:
        """The mean so far."""
        return self._results.tensors["sum"] / self.count

    def tops(self, word: int, dtype: torch.dtype) -> tuple[SampleTop, ...]:
        """Each sample's best for a word, their scores of a dtype."""
        return tuple(
            SampleTop(name, torch.tensor(indices), torch.tensor(values, dtype=dtype))
            for name, indices, values in self._results.parts["tops"][word]
        )

    def add(self, sums: _Sums) -> None:
        """Count samples."""
        self._results.parts["count"] += sums.count
        self._results.tensors["sum"] += sums.total
        for tops, more in zip(self._results.parts["tops"], sums.tops, strict=False):  # no tops where none are kept
            tops += more
