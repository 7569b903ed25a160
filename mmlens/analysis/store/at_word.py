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
    """The state that predicts a word of the model's own caption: the first of the words that occurs in it, or every one.

    Attributes:
        words: the words, each as it is split into words itself ("traffic light" is two in a row).
        word_token: which token of the (last, or first) word.
        every_word: whether every word that occurs gives a state, at its first occurrence; else the first of them alone.
        in_truth: keep only samples whose true caption has the word as well.
        max_new_tokens: of the generation.
        contrast: contrastive decoding of it; None for none.
    """

    words: tuple[tuple[str, ...], ...]
    word_token: WordToken
    in_truth: bool
    max_new_tokens: int
    contrast: ContrastMethod | None = None
    every_word: bool = False

    @classmethod
    @checked
    def of(
        cls,
        token: str | Sequence[str],
        word_token: WordToken,
        in_truth: bool,
        max_new_tokens: int,
        contrast: ContrastChoice = None,
        every_word: bool = False,
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
            every_word,
        )

    def __str__(self) -> str:
        words = ", ".join(" ".join(word) for word in self.words)
        truth = ", true captions have it too" if self.in_truth else ""
        occurrence = "every one" if self.every_word else "the first"
        return f"the {self.word_token} token of {occurrence} of: {words}{truth}{contrasted(self.contrast)}"

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
        rows = [(number, step) for number, several in enumerate(matches) for _, step in several]
        return CollectedBatch(
            picked(trace, nodes, rows),
            list(map(len, matches)),
            [step for _, step in rows],
            [int(trace.tokens[number, step]) for number, step in rows],
            trace.text,
            [tuple(word for word, _ in several) for several in matches],
        )

    def _find(
        self, model: HookedMultimodal, trace: GenerationTrace, number: int, sample: Sample
    ) -> list[tuple[str, int]]:
        """The words, and the steps that predicted their tokens."""
        words_of_caption = _split(trace.text[number])
        if not any(_first(words_of_caption, word) is not None for word in self.words):
            return []  # spares most samples the alignment
        words = caption_words(model, trace, sample=number)
        texts = tuple(word.text for word in words)
        places = [(place, word) for word in self.words if (place := _first(texts, word)) is not None]
        places = sorted(places, key=lambda match: match[0])
        truth = _split(sample.caption or "")
        return [
            (" ".join(word), self._step(words[place : place + len(word)]))
            for place, word in (places if self.every_word else places[:1])
            if not self.in_truth or _first(truth, word) is not None
        ]

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
