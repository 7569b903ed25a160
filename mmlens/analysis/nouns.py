"""The nouns of a generated caption, each aligned with the tokens that wrote it and the steps that predicted them."""

import importlib.util
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from mmlens.core.contract import checked
from mmlens.core.errors import InputError
from mmlens.core.kinds import Index
from mmlens.inputs.words import INCOMPLETE
from mmlens.models.generation import GenerationTrace
from mmlens.models.hooked import HookedMultimodal

#: Words that are not taken for nouns when nothing better is at hand: articles, prepositions, auxiliaries and the like.
_FUNCTION_WORDS = frozenset(
    """
    a about above across after all along also an and another any are around as at away back be been before behind
    below beside between both but by can could did do does down each either every few for from front had has have
    he her here him his how i if in inside into is it its itself just left like many may more most much near next
    no not of off on one onto or other our out over own right same she should side so some such than that the
    their them then there these they this those three through to together top toward two under until up very was
    we were what when where which while who will with would you your appears be being being's features image
    picture photo shows several located standing sitting placed
    """.split()  # noqa: SIM905 - a list literal would be a hundred lines
)

#: The words of a text: letters and digits, with hyphens and apostrophes between them.
WORD = re.compile(r"[^\W_]+(?:[-'][^\W_]+)*")

#: A list of nouns, or a function from the caption to its nouns.
Nouns = Collection[str] | Callable[[str], Sequence[str]] | None


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
    whole = [len(text.rstrip(INCOMPLETE)) for text in texts]
    ends = [length + text.endswith(INCOMPLETE) for length, text in zip(whole, texts, strict=True)]
    starts = [0, *whole[:-1]]
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
    model: HookedMultimodal, trace: GenerationTrace, *, nouns: Nouns = None, sample: Index = 0
) -> list[CaptionWord]:
    """The nouns of a caption, each once (at its first mention), in the order of the caption.

    Args:
        model: the hooked model.
        trace: its generation.
        nouns: a list of nouns, of one word or several; a function from the caption to its nouns; or None: spaCy's
            part-of-speech tags if spaCy and its English model are installed, else every word that is not a function word.
        sample: which sample.

    Raises:
        InputError: if the caption has none of the nouns.
    """
    words = nouns_said(model, trace, nouns=nouns, sample=sample)
    if not words:
        raise InputError(
            f"The caption {trace.text[sample]!r} has no noun"
            + (f" among the {len(nouns)} given" if isinstance(nouns, Collection) else "")
            + "; pass the nouns to look for."
        )
    return words


def nouns_said(
    model: HookedMultimodal, trace: GenerationTrace, *, nouns: Nouns = None, sample: int = 0
) -> list[CaptionWord]:
    """As `caption_nouns`, but a caption may have none: for datasets, where some captions miss."""
    words = caption_words(model, trace, sample=sample)
    vocabulary = _wanted(nouns, trace.text[sample], words)
    ids = trace.tokens[sample].tolist()
    longest = max((len(noun.split()) for noun in vocabulary), default=0)
    result: dict[str, CaptionWord] = {}
    at = 0
    while at < len(words):
        # the longest noun that begins here: "traffic light" is no "light"
        phrases = (words[at : at + length] for length in range(min(longest, len(words) - at), 0, -1))
        candidates = (_joined(model, ids, phrase) for phrase in phrases)
        noun = next((word for word in candidates if word is not None and word.text in vocabulary), None)
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


def _wanted(nouns: Nouns, caption: str, words: list[CaptionWord]) -> set[str]:
    if callable(nouns):
        nouns = nouns(caption)
    if nouns is not None:
        return {" ".join(noun.lower().split()) for noun in nouns}
    tagger = _spacy()
    if tagger is not None:
        return {token.text.lower() for token in tagger(caption) if token.pos_ in ("NOUN", "PROPN")}
    return {word.text for word in words} - _FUNCTION_WORDS


def _spacy() -> Any | None:
    """spaCy's small English model if both are installed; nothing is downloaded."""
    if importlib.util.find_spec("spacy") is None or importlib.util.find_spec("en_core_web_sm") is None:
        return None
    import spacy

    return spacy.load("en_core_web_sm")
