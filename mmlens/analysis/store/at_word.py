"""The rule that keeps the state which predicts a word of the model's own caption."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

from mmlens.analysis.nouns.caption_nouns import WORD, CaptionWord, caption_words
from mmlens.analysis.samples.sample import Sample
from mmlens.analysis.store.rules import CollectedBatch, contrasted, picked
from mmlens.core.contract import checked
from mmlens.core.errors import InputError
from mmlens.hooks.nodes import Selection
from mmlens.inputs.batch import MultimodalBatch
from mmlens.models.contrast.methods import ContrastChoice, ContrastMethod
from mmlens.models.generation import GenerationTrace
from mmlens.models.hooked import HookedMultimodal

#: Which token of a word of several tokens is meant.
WordToken = Literal["last", "first"]


@dataclass(frozen=True)
class AtWord:
    """The state that predicts a word of the model's own caption: the first of the words that occurs in it.

    Attributes:
        words: the words, each as it is split into words itself ("traffic light" is two in a row).
        word_token: which token of the (last, or first) word.
        in_truth: keep only samples whose true caption has the word as well.
        max_new_tokens: of the generation.
        contrast: contrastive decoding of it; None for none.
    """

    words: tuple[tuple[str, ...], ...]
    word_token: WordToken
    in_truth: bool
    max_new_tokens: int
    contrast: ContrastMethod | None = None

    @classmethod
    @checked
    def of(
        cls,
        token: str | Sequence[str],
        word_token: WordToken,
        in_truth: bool,
        max_new_tokens: int,
        contrast: ContrastChoice = None,
    ) -> "AtWord":
        """The rule for a word or several.

        Raises:
            InputError: for what is no word, or an unknown `word_token`.
        """
        words = [token] if isinstance(token, str) else list(token)
        split = {word: _split(word) for word in words}
        wrong = [word for word, pieces in split.items() if not pieces]
        if wrong or not words:
            raise InputError(f"token={token!r} holds no word to look for in captions{_listed(wrong)}.")
        # longest first, so that "traffic light" is found before "traffic" at the same place
        return cls(
            tuple(sorted(set(split.values()), key=lambda word: (-len(word), word))),
            word_token,
            in_truth,
            max_new_tokens,
            cast("ContrastMethod | None", contrast),
        )

    def __str__(self) -> str:
        words = ", ".join(" ".join(word) for word in self.words)
        truth = ", true captions have it too" if self.in_truth else ""
        return f"the {self.word_token} token of the first of: {words}{truth}{contrasted(self.contrast)}"

    def check(self, model: HookedMultimodal, nodes: Selection) -> None:
        """Nothing beyond what generation checks itself."""

    def take(
        self, model: HookedMultimodal, nodes: Selection, samples: Sequence[Sample], batch: MultimodalBatch
    ) -> CollectedBatch:
        """Generate, and keep the state that predicted the word, where the caption has it.

        Raises:
            InputError: if true captions are needed and a sample has none.
        """
        unknown = [sample.name or sample.key for sample in samples if sample.caption is None]
        if self.in_truth and unknown:
            raise InputError(
                f"in_truth=True needs true captions, but the samples {', '.join(unknown[:4])} have none; give "
                "Sample(caption=...), or mappings with 'caption'."
            )
        trace = model.trace_generation(batch, names=nodes, max_new_tokens=self.max_new_tokens, contrast=self.contrast)
        matches = [self._find(model, trace, number, sample) for number, sample in enumerate(samples)]
        rows = [(number, step) for number, (_, step) in enumerate(matches) if step is not None]
        return CollectedBatch(
            picked(trace, nodes, rows),
            [int(step is not None) for _, step in matches],
            [step for _, step in rows],
            [int(trace.tokens[number, step]) for number, step in rows],
            trace.text,
            [word for word, _ in matches],
        )

    def _find(
        self, model: HookedMultimodal, trace: GenerationTrace, number: int, sample: Sample
    ) -> tuple[str | None, int | None]:
        """The word and the step that predicted its token."""
        words_of_caption = _split(trace.text[number])
        if not any(_first(words_of_caption, word) is not None for word in self.words):
            return None, None  # spares most samples the alignment
        words = caption_words(model, trace, sample=number)
        texts = tuple(word.text for word in words)
        places = [(place, word) for word in self.words if (place := _first(texts, word)) is not None]
        if not places:
            return None, None
        place, word = min(places, key=lambda match: match[0])
        if self.in_truth and _first(_split(sample.caption or ""), word) is None:
            return None, None
        return " ".join(word), self._step(words[place : place + len(word)])

    def _step(self, words: Sequence[CaptionWord]) -> int:
        if self.word_token == "first":
            return words[0].step
        return words[-1].step + len(words[-1].tokens) - 1


def _listed(words: Sequence[str]) -> str:
    return f": {', '.join(map(repr, words))} is none" if words else ""


def _split(text: str) -> tuple[str, ...]:
    return tuple(match.lower() for match in WORD.findall(text))


def _first(words: tuple[str, ...], target: tuple[str, ...]) -> int | None:
    """Where a word (or several in a row) first occurs."""
    width = len(target)
    return next((i for i in range(len(words) - width + 1) if words[i : i + width] == target), None)
