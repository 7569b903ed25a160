"""Whether the neurons behind a caption's nouns can be read, and whether pictures and words share them.

For a noun t of the model's own caption and the position that predicts it, neuron i of layer l contributes

    s[l, i] = q[l, i] * (W_U[t] . W_down[l][:, i])

where q is the input of the layer's down projection. The 20 largest over all layers are the noun's neurons.

Source:
    Finding and Editing Multi-Modal Neurons in Pre-Trained Transformers, Pan et al., 2024,
    https://arxiv.org/abs/2311.07470 (contribution score, there with the activation function's output as q).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from mmlens.lab.accuracy import captions
from mmlens.lab.data import Packer
from mmlens.lab.language import CAPTION_PROMPT
from mmlens.lab.objectives import packed_logits, recorded_neurons
from mmlens.lab.scenery import Scene
from mmlens.lab.world import NOUNS

TOP = 20
WORDS = 5


@dataclass(frozen=True)
class Share:
    """A mean share from 0 to 1 with its 95% interval, bootstrapped over scenes."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True)
class NounNeurons:
    """What the top neurons of the nouns are like.

    Attributes:
        readable: Share of a noun's top 20 that have the noun among their 5 words.
        readable_random: The same for random neurons of the same layers.
        shared: Share of the top 20 for the picture that are in the top 20 for its written twin.
        shared_other: The same with the writing of another noun.
        layers: Per layer the share of the top 20 that lies in it.
        nouns: Number of nouns measured.
        both: Number of nouns that the captions of picture and writing both have.
        scenes: Number of scenes.
    """

    readable: Share
    readable_random: Share
    shared: Share
    shared_other: Share
    layers: tuple[float, ...]
    nouns: int
    both: int
    scenes: int


@torch.no_grad()
def noun_neurons(
    model: LlavaForConditionalGeneration,
    processor: LlavaProcessor,
    scenes: list[Scene],
    *,
    seed: int = 0,
    progress: bool = True,
) -> NounNeurons:
    """Measure the top neurons of the nouns in the model's own captions.

    Args:
        model: The lab model.
        processor: Its processor.
        scenes: Held-out scenes.
        seed: Decides random neurons, other nouns and bootstrap samples.
        progress: Whether to show bars.

    Returns:
        The measurement.
    """
    rng = np.random.default_rng(seed)
    seen = _top_neurons(model, processor, scenes, written=False, progress=progress)
    read = _top_neurons(model, processor, scenes, written=True, progress=progress)
    words = _words(model)
    blocks = model.model.language_model.layers
    width = blocks[0].mlp.down_proj.in_features
    token = {noun: processor.tokenizer.convert_tokens_to_ids(noun) for noun in NOUNS}
    readable, random, shared, other = [], [], [], []
    counts = np.zeros(len(blocks))
    keys = list(read)
    for (index, noun), top in seen.items():
        layers = top // width
        counts += np.bincount(layers, minlength=len(counts))
        readable.append((index, (words[top] == token[noun]).any(axis=1).mean()))
        drawn = layers * width + rng.integers(width, size=len(top))
        random.append((index, (words[drawn] == token[noun]).any(axis=1).mean()))
        if (index, noun) in read:
            shared.append((index, np.isin(top, read[index, noun]).mean()))
            while True:
                different = keys[rng.integers(len(keys))]
                if different[1] != noun:
                    break
            other.append((index, np.isin(top, read[different]).mean()))
    return NounNeurons(
        readable=_share(readable, rng),
        readable_random=_share(random, rng),
        shared=_share(shared, rng),
        shared_other=_share(other, rng),
        layers=tuple((counts / counts.sum()).round(4).tolist()),
        nouns=len(seen),
        both=len(shared),
        scenes=len(scenes),
    )


def _top_neurons(
    model: LlavaForConditionalGeneration,
    processor: LlavaProcessor,
    scenes: list[Scene],
    *,
    written: bool,
    progress: bool,
    batch_size: int = 30,
) -> dict[tuple[int, str], Int[np.ndarray, " top"]]:
    """For each (scene number, noun of its caption) the top neurons, counted through all layers."""
    packer = Packer(processor)
    said = captions(model, processor, scenes, written=written, progress=progress)
    tokens = {processor.tokenizer.convert_tokens_to_ids(noun): noun for noun in NOUNS}
    directions = _directions(model)
    result: dict[tuple[int, str], np.ndarray] = {}
    for start in tqdm(range(0, len(scenes), batch_size), "neurons", disable=not progress):
        some = scenes[start : start + batch_size]
        rows = [
            (each, [(CAPTION_PROMPT, text)]) for each, text in zip(some, said[start : start + batch_size], strict=True)
        ]
        pictures = None if written else np.stack([np.asarray(each.image) for each in some])
        batch = packer.pack(rows, pictures)
        with recorded_neurons(model) as recorded:
            packed_logits(model, batch)
        activity = torch.stack(recorded, dim=2)  # batch pos layer neuron
        for row, position in torch.nonzero(batch.labels > 0).tolist():
            noun = tokens.get(int(batch.labels[row, position]))
            if noun is None or (start + row, noun) in result:
                continue
            unembedding = model.lm_head.weight[batch.labels[row, position]]
            scores = activity[row, position] * (directions @ unembedding)
            result[start + row, noun] = scores.flatten().topk(TOP).indices.numpy()
    return result


def _directions(model: LlavaForConditionalGeneration) -> Float[Tensor, "layer neuron d_model"]:
    layers = model.model.language_model.layers
    return torch.stack([layer.mlp.down_proj.weight.T for layer in layers])


def _words(model: LlavaForConditionalGeneration) -> Int[np.ndarray, "neurons words"]:
    """Per neuron, counted through all layers, the tokens whose logits its direction raises most."""
    logits = _directions(model).flatten(0, 1) @ model.lm_head.weight.T
    return logits.topk(WORDS, dim=-1).indices.numpy()


def _share(values: list[tuple[int, float]], rng: np.random.Generator, samples: int = 1000) -> Share:
    """Mean over nouns; whole scenes are drawn again for the interval, since their nouns belong together."""
    if not values:
        return Share(float("nan"), float("nan"), float("nan"))
    scenes = np.array([index for index, _ in values])
    shares = np.array([share for _, share in values])
    sums, counts = np.bincount(scenes, shares), np.bincount(scenes)
    sums, counts = sums[counts > 0], counts[counts > 0]
    drawn = rng.integers(len(sums), size=(samples, len(sums)))
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return Share(float(shares.mean()), float(low), float(high))
