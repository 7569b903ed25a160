"""The neurons behind every noun of a generated caption."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from mmlens.analysis.neurons.methods import NEURON_METHODS, NeuronChoice, NeuronMethod
from mmlens.analysis.neurons.points import NeuronLayers, neuron_layers
from mmlens.analysis.neurons.scores import NeuronScores
from mmlens.analysis.neurons.token_targets import TokenTargets
from mmlens.analysis.nouns.caption_nouns import CaptionWord, Nouns, nouns_said
from mmlens.analysis.samples.chunks import chunks_of
from mmlens.analysis.samples.sample import Data, length_of
from mmlens.core.contract import checked, checked_result
from mmlens.core.errors import InputError
from mmlens.core.kinds import Count, PathLike, Text
from mmlens.core.names import Part
from mmlens.core.progress import ProgressBar
from mmlens.core.saved import Saved
from mmlens.core.unit_sets import Units
from mmlens.core.view import Viewable
from mmlens.inputs.batch import MultimodalBatch
from mmlens.models.generation import GenerationTrace
from mmlens.models.hooked import HookedMultimodal, WritingModel

if TYPE_CHECKING:
    import pandas as pd


@checked_result
@dataclass(frozen=True)
class CaptionNeurons(Viewable, Saved):
    """A caption, its nouns, and the scores of all neurons for each.

    Attributes:
        text: the caption.
        nouns: its nouns in the order of the caption, each with its tokens and the step that predicted the first.
        scores: one per noun.
        name: of the sample, in a dataset.
    """

    text: str
    nouns: tuple[CaptionWord, ...]
    scores: tuple[NeuronScores, ...]
    name: str = ""

    def __repr__(self) -> str:
        return f"CaptionNeurons({self.text!r}: {', '.join(noun.text for noun in self.nouns) or 'none of the nouns'})"

    def __len__(self) -> int:
        return len(self.nouns)

    def __iter__(self) -> Iterator[tuple[CaptionWord, NeuronScores]]:
        return iter(zip(self.nouns, self.scores, strict=True))

    def _ipython_key_completions_(self) -> list[str]:
        return [noun.text for noun in self.nouns]

    @checked
    def __getitem__(self, noun: str) -> NeuronScores:
        for word, scores in self:
            if word.text == noun.lower():
                return scores
        raise InputError(
            f"The caption {self.text!r} has no noun {noun!r}; it has {', '.join(noun.text for noun in self.nouns) or 'none'}."
        )

    @checked
    def top(self, k: Count = 20) -> Units:
        """The k best neurons of every noun, noun by noun.

        Raises:
            InputError: if k is not in 1..number of neurons.
        """
        return Units(unit for scores in self.scores for unit in scores.top(k))

    @classmethod
    @checked
    def load(cls, path: PathLike, *, model: HookedMultimodal | None = None) -> "CaptionNeurons":
        """Read what `save` wrote.

        Args:
            path: the file.
            model: the model that wrote the caption, for words and heat maps; everything else works without.

        Raises:
            InputError: if there is no such file, or the model is another one.
            DamagedFileError: if it was changed or cut off.
        """
        read = super().load(path)
        return replace(read, scores=tuple(scores._with(model, path) for scores in read.scores))

    @checked
    def to_frame(self, k: Count = 5, *, words: Count = 5) -> "pd.DataFrame":
        """The top k neurons of every noun, one after another."""
        import pandas as pd

        frames = [scores.to_frame(k, words=words).assign(noun=noun.text) for noun, scores in self]
        if not frames:
            return pd.DataFrame(columns=["noun", "rank", "layer", "neuron", "score", "words"])
        table = pd.concat(frames, ignore_index=True)
        return table[["noun", *table.columns.drop("noun")]]


@checked
@torch.no_grad()
def find_caption_neurons(
    model: WritingModel,
    data: Data,
    *,
    nouns: Nouns = None,
    method: NeuronChoice = "contribution",
    part: Part = "language",
    stack: str | None = None,
    max_new_tokens: Count = 40,
    prompt: Text | None = None,
    batch_size: Count = 8,
    progress: bool = True,
) -> list[CaptionNeurons]:
    """Caption every picture, and score all neurons for each noun of the caption where it was said.

    One generation and one forward pass per batch (gradient methods: and one backward pass per token). Every noun is
    scored for its own tokens at its own steps: at each of them where it has several, and at its first mention where it has
    more than one.

    Args:
        model: the hooked model.
        data: a batch, padded on the left, or a dataset of pictures.
        nouns: as for `caption_nouns`.
        method, part, stack: as for `find_neurons`.
        max_new_tokens: of the caption.
        prompt, batch_size, progress: of a dataset.

    Returns:
        One entry per sample; a caption without any of the nouns has none. All scores are held: `[layer neuron]` per noun.

    Raises:
        InputError: as for `find_neurons`, before anything runs.

    Example:
        >>> (found,) = find_caption_neurons(model, batch, nouns=["circle", "square", "triangle", "house", "star", "tree"])
        >>> all(word in found.text for word in [noun.text for noun in found.nouns])
        True

    Source: Pan et al., "Finding and Editing Multi-Modal Neurons in Pre-Trained Transformers", Findings of ACL 2024
    (https://arxiv.org/abs/2311.07470).
    *Departs:* the published code scored a noun for its first token alone, encoded outside of the caption, at the first place
    where that token occurred.
    """
    layers = neuron_layers(model, part, stack)
    scoring = NEURON_METHODS.get(method)
    scoring.check(model, layers)
    captions = []
    bar = ProgressBar(total=length_of(data), desc="captions", disable=not progress)
    for chunk in chunks_of(model, data, prompt, batch_size):
        batch = chunk.batch
        trace = model.trace_generation(batch, names="hook_logits", max_new_tokens=max_new_tokens)
        nouns_by_sample = [nouns_said(model, trace, nouns=nouns, sample=sample) for sample in range(batch.size)]
        scores = iter(
            _scores(model, _noun_targets(model, batch, trace, nouns_by_sample), nouns_by_sample, scoring, layers)
        )
        captions += [
            CaptionNeurons(text, tuple(words), tuple(next(scores) for _ in words), name)
            for text, words, name in zip(trace.text, nouns_by_sample, chunk.names, strict=True)
        ]
        bar.update(chunk.size)
    bar.close()
    if not captions:
        raise InputError("The dataset is empty: there is no picture to caption.")
    return captions


def _scores(
    model: HookedMultimodal,
    targets: TokenTargets | None,
    nouns_by_sample: list[list[CaptionWord]],
    method: NeuronMethod,
    layers: NeuronLayers,
) -> list[NeuronScores]:
    """Scores of every noun, caption by caption."""
    if targets is None:
        return []
    total = targets.summed(method.scores(model, targets, layers), sum(map(len, nouns_by_sample)))
    return [
        NeuronScores(
            scores=scores,
            tokens=word.tokens,
            word=word.text,
            method=method.name,
            part=layers.part,
            stack=layers.stack,
            settings=method.settings,
            model=model,
            batch=targets.batch,
            sample=sample,
        )
        for (sample, word), scores in zip(
            ((sample, word) for sample, words in enumerate(nouns_by_sample) for word in words), total, strict=True
        )
    ]


def _noun_targets(
    model: HookedMultimodal, batch: MultimodalBatch, trace: GenerationTrace, nouns_by_sample: list[list[CaptionWord]]
) -> TokenTargets | None:
    """The tokens of all nouns of all captions, read off one run over the captions; None if there are no nouns."""
    n_steps = trace.tokens.shape[1]
    nouns = [(sample, word) for sample, words in enumerate(nouns_by_sample) for word in words]
    # the run ends with the token before the last one, which it predicts
    entries = [
        (sample, n_steps - 1 - (word.step + place), token, number)
        for number, (sample, word) in enumerate(nouns)
        for place, token in enumerate(word.tokens)
    ]
    if not entries:
        return None
    sample, back, token, owner = torch.tensor(entries).unbind(1)
    teacher = model.extend(batch, trace.tokens[:, :-1]) if n_steps > 1 else batch
    return TokenTargets(teacher, sample, back, token, owner)
