"""The nouns of a generated caption, each aligned with the tokens that wrote it and the steps that predicted them."""

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from mmlens.analysis.nouns.english import english_nouns
from mmlens.core.answer_text import normalised
from mmlens.core.contract import checked
from mmlens.core.errors import InputError
from mmlens.core.kinds import Index
from mmlens.inputs.words import INCOMPLETE
from mmlens.models.generation import GenerationTrace
from mmlens.models.hooked import HookedMultimodal, WritingModel

#: The words of a text: letters and digits, with hyphens and apostrophes between them; a possessive's "'s" is no part of them.
WORD = re.compile(r"(?<!['\u2019])[^\W_]+(?:[-'\u2019](?!s\b)[^\W_]+)*")

#: A noun, several, or a function from the caption to its nouns; None for those of English.
Nouns = str | Collection[str] | Callable[[str], Sequence[str]] | None


@dataclass(frozen=True)
class CaptionWord:
    """A word of a generated caption, or a noun of several words.

    Attributes:
        text: the word, in lower case.
        step: the generation step that predicted its first token.
        tokens: the ids of its tokens, as they were generated.
    """

    text: str
    step: int
    tokens: tuple[int, ...]


def caption_words(model: HookedMultimodal, trace: GenerationTrace, *, sample: int = 0) -> list[CaptionWord]:
    """Every word of a caption with the tokens that wrote it.

    Words are aligned by characters of the decoded text, so it does not matter how a tokenizer splits or marks them.

    Args:
        model: the hooked model.
        trace: its generation.
        sample: which sample.
    """
    ids = trace.tokens[sample, : int(trace.lengths[sample])].tolist()
    texts = [_text(model, ids[: step + 1]) for step in range(len(ids))]
    # a letter of several tokens (bytes) is there as a whole behind the last of them, and belongs to all of them
    lengths = [len(text.rstrip(INCOMPLETE)) for text in texts]
    ends = [length + text.endswith(INCOMPLETE) for length, text in zip(lengths, texts, strict=True)]
    starts = [0, *lengths[:-1]]
    words = []
    for match in WORD.finditer(_text(model, ids)):
        steps = [
            i
            for i, (start, end) in enumerate(zip(starts, ends, strict=True))
            if start < match.end() and end > match.start()
        ]
        if steps:
            words.append(CaptionWord(match[0].lower(), steps[0], tuple(ids[i] for i in steps)))
    return words


def _text(model: HookedMultimodal, ids: list[int]) -> str:
    return model.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


@checked
def caption_nouns(
    model: WritingModel, trace: GenerationTrace, *, nouns: Nouns = None, sample: Index = 0
) -> list[CaptionWord]:
    """The nouns of a caption, each once (at its first mention), in the order of the caption.

    Args:
        model: the hooked model.
        trace: its generation.
        nouns: a noun or a list of them, of one word or several, as `mm.scorers.normalised` compares words; a function from the
            caption to its nouns (spaCy's, say); or None: the nouns of English, by word lists (`mmlens.analysis.nouns.english`).
        sample: which sample.

    Raises:
        InputError: if the caption has none of the nouns, or there is no such sample.
    """
    if sample >= len(trace.text):
        raise InputError(f"sample={sample} must lie in 0..{len(trace.text) - 1}, the samples of the trace.")
    words = nouns_said(model, trace, nouns=nouns, sample=sample)
    if not words:
        names = [] if nouns is None or callable(nouns) else [nouns] if isinstance(nouns, str) else list(nouns)
        raise InputError(
            f"The caption {trace.text[sample]!r} has no noun"
            + (f" among {', '.join(names)!r:.80}" if names else "")
            + "; pass the nouns to look for."
        )
    return words


def nouns_said(
    model: WritingModel, trace: GenerationTrace, *, nouns: Nouns = None, sample: int = 0
) -> list[CaptionWord]:
    """As `caption_nouns`, but a caption may have none: for datasets, where some captions miss."""
    words = caption_words(model, trace, sample=sample)
    vocabulary = _vocabulary(nouns, trace.text[sample])
    ids = trace.tokens[sample].tolist()
    longest = max((len(noun.split()) for noun in vocabulary), default=0)
    result: dict[str, CaptionWord] = {}
    at = 0
    while at < len(words):
        # the longest noun that begins here: "traffic light" is no "light"
        phrases = (words[at : at + length] for length in range(min(longest, len(words) - at), 0, -1))
        candidates = (_joined(model, ids, phrase) for phrase in phrases)
        noun = next((word for word in candidates if word is not None and normalised(word.text) in vocabulary), None)
        if noun is not None:
            result.setdefault(noun.text, noun)
        at += 1 if noun is None else len(noun.text.split())
    return list(result.values())


def _joined(model: HookedMultimodal, ids: list[int], words: list[CaptionWord]) -> CaptionWord | None:
    """Neighbouring words as one; None if something other than space stands between them."""
    first, last = words[0].step, words[-1].step + len(words[-1].tokens)
    pattern = r"\s+".join(re.escape(word.text) for word in words)
    if len(words) > 1 and re.search(pattern, _text(model, ids[first:last]), re.IGNORECASE) is None:
        return None
    return CaptionWord(" ".join(word.text for word in words), first, tuple(ids[first:last]))


def _vocabulary(nouns: Nouns, caption: str) -> set[str]:
    """The nouns to look for, normalised."""
    if nouns is None or callable(nouns):
        nouns = (nouns or english_nouns)(caption)
    return {normalised(noun) for noun in ([nouns] if isinstance(nouns, str) else nouns)}
