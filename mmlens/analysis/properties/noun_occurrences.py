"""Nouns that a model says of the samples of a dataset, with the state that is about to say them."""

from dataclasses import dataclass, field
from functools import cached_property

import torch

from mmlens.analysis.nouns import Nouns, nouns_said
from mmlens.analysis.samples import Sample
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
        said: ids of the new tokens, `[step]`, without the end token.
    """

    sample: Sample
    number: int
    noun: str
    token: int
    step: int
    caption: str
    model: HookedMultimodal = field(repr=False)
    prompt: MultimodalBatch = field(repr=False)
    said: torch.Tensor = field(repr=False)

    @cached_property
    def at(self) -> MultimodalBatch:
        """The batch whose last position predicts the noun."""
        return self.model.extend(self.prompt, self.said[None, : self.step])

    @cached_property
    def whole(self) -> MultimodalBatch:
        """The batch with the whole caption; the position before each token predicts it."""
        return self.model.extend(self.prompt, self.said[None])

    @property
    def other_steps(self) -> torch.Tensor:
        """The steps that predicted the caption's other tokens, those of the same word left out."""
        return torch.tensor([i for i, token in enumerate(self.said.tolist()) if token != self.token], dtype=torch.long)


def mentions(
    model: HookedMultimodal,
    sample: Sample,
    *,
    number: int = 0,
    nouns: Nouns = None,
    per_sample: int | None = None,
    max_new_tokens: int = 30,
) -> list[NounOccurrence]:
    """Caption a sample, and find its nouns; none if the caption has none.

    Args:
        model: the hooked model.
        sample: what to caption.
        number: its place in the dataset.
        nouns: as for `mm.caption_nouns`.
        per_sample: how many nouns to keep, the first of the caption; all by default.
        max_new_tokens: upper bound on the caption's tokens.

    Example:
        >>> from mmlens.analysis.samples import as_samples
        >>> found = mentions(model, next(as_samples([scene])), nouns=[thing.shape for thing in scene.objects])
        >>> all(mention.token == mention.said[mention.step] for mention in found)
        True
    """
    pictures = list(sample.pictures)
    prompt = model.prepare(sample.prompt, images=[pictures] if pictures else None)
    trace = model.trace_generation(prompt, names="hook_logits", max_new_tokens=max_new_tokens)
    said = trace.tokens[0, : int(trace.lengths[0])]
    said = said[~torch.isin(said, torch.tensor(sorted(model.stop_tokens), dtype=said.dtype))]
    return [
        NounOccurrence(sample, number, word.text, word.tokens[0], word.step, trace.text[0], model, prompt, said)
        for word in nouns_said(model, trace, nouns=nouns)[:per_sample]
    ]
