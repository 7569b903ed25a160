"""Nouns that a model says of the samples of a dataset, with the state that is about to say them."""

from collections.abc import Collection
from dataclasses import dataclass, field
from functools import cached_property

import torch

from mmlens.analysis.nouns.caption_nouns import Nouns, nouns_said
from mmlens.analysis.samples.sample import Sample
from mmlens.inputs.batch import MultimodalBatch
from mmlens.models.hooked import HookedMultimodal


@dataclass(frozen=True)
class NounOccurrence:
    """A noun that the model said of a sample.

    Attributes:
        sample: the sample.
        number: its place in the dataset, from 0.
        noun: the noun, in lower case.
        token: the id of the noun's first token, as it was generated.
        step: the generation step that predicted it.
        caption: what the model said, whole.
        prompt: the sample as a batch of one, without what was said.
        caption_tokens: ids of the new tokens, `[step]`, without the end token.
        likeliest: whether each token was simply the likeliest by the model's logits: nothing processed these.
    """

    sample: Sample
    number: int
    noun: str
    token: int
    step: int
    caption: str
    model: HookedMultimodal = field(repr=False)
    prompt: MultimodalBatch = field(repr=False)
    caption_tokens: torch.Tensor = field(repr=False)
    likeliest: bool = False

    @cached_property
    def at(self) -> MultimodalBatch:
        """The batch whose last position predicts the noun."""
        return self.model.extend(self.prompt, self.caption_tokens[None, : self.step])

    @cached_property
    def whole(self) -> MultimodalBatch:
        """The batch with the whole caption; the position before each token predicts it."""
        return self.model.extend(self.prompt, self.caption_tokens[None])

    @property
    def other_steps(self) -> torch.Tensor:
        """The steps that predicted the caption's other tokens, those of the same word left out."""
        return torch.tensor(
            [i for i, token in enumerate(self.caption_tokens.tolist()) if token != self.token], dtype=torch.long
        )


@dataclass(frozen=True)
class CaptionSettings:
    """How samples are captioned, and which nouns of a caption count.

    Attributes:
        nouns: as for `mm.neurons.caption_nouns`.
        per_sample: how many nouns of a caption count, the first; None for all.
        max_new_tokens: upper bound on a caption's tokens.
        batch_size: samples among which a noun meets other nouns, its controls.
    """

    nouns: Nouns = None
    per_sample: int | None = None
    max_new_tokens: int = 30
    batch_size: int = 8

    def __str__(self) -> str:
        nouns = sorted(self.nouns) if isinstance(self.nouns, Collection) else getattr(self.nouns, "__name__", None)
        return f"{nouns}, {self.per_sample}, {self.max_new_tokens}, {self.batch_size}"


def noun_occurrences(
    model: HookedMultimodal, sample: Sample, settings: CaptionSettings | None = None, *, number: int = 0
) -> list[NounOccurrence]:
    """The nouns of the caption that a model gives a sample; none if it has none.

    Args:
        model: the hooked model.
        sample: what to caption.
        settings: how.
        number: its place in the dataset.

    Example:
        >>> from mmlens.analysis.samples.sample import as_samples
        >>> settings = CaptionSettings([thing.shape for thing in scene.objects])
        >>> occurrences = noun_occurrences(model, next(as_samples([scene])), settings)
        >>> all(occurrence.token == occurrence.caption_tokens[occurrence.step] for occurrence in occurrences)
        True
    """
    settings = settings or CaptionSettings()
    pictures = list(sample.pictures)
    prompt = model.prepare(sample.prompt, images=[pictures] if pictures else None)
    trace = model.trace_generation(prompt, names="hook_logits", max_new_tokens=settings.max_new_tokens)
    tokens = trace.tokens[0, : int(trace.lengths[0])]
    tokens = tokens[~torch.isin(tokens, torch.tensor(sorted(model.stop_tokens), dtype=tokens.dtype))]
    likeliest = trace.scores is trace.logits
    return [
        NounOccurrence(
            sample, number, word.text, word.tokens[0], word.step, trace.text[0], model, prompt, tokens, likeliest
        )
        for word in nouns_said(model, trace, nouns=settings.nouns)[: settings.per_sample]
    ]
