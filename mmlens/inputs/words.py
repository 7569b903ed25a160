"""Words as rows: where a word stands among token ids, all of its pieces, however a tokenizer splits and marks them."""

import re
import unicodedata
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Int

from mmlens.core.errors import InputError
from mmlens.core.names import nearest
from mmlens.core.rules import WORDS, Word
from mmlens.inputs.batch import MultimodalBatch
from mmlens.inputs.picture_positions import own_pictures
from mmlens.inputs.point_rows import GROWING, PointRows

#: What a tokenizer decodes the first bytes of a letter to.
INCOMPLETE = "\ufffd"


def word_positions(rule: Word, point: PointRows) -> list[Int[torch.Tensor, "token"]]:
    """Per sample, the tokens of a word, counted among its own; those that were written follow those of the prompt.

    Raises:
        InputError: for samples without the word, points that hold no text, and batches without a tokenizer.
    """
    batch, node = point.batch, point.node
    if node.sequence not in GROWING:
        raise InputError(
            f"{rule!r} is a word of the text, and {node.name} holds rows of pictures; name it at points of the "
            f"language model. (The rules that are words: {', '.join(map(repr, WORDS))}.)"
        )
    if batch.tokenizer is None:
        raise InputError(
            f"{rule!r} needs a tokenizer, and the model was wrapped without a processor; pass one: "
            "HookedMultimodal.from_hf(hf_model, processor)."
        )
    if rule.per_sample and len(rule.words) != point.size:
        raise InputError(
            f"word() was given {len(rule.words)} words, and the batch has {point.size} samples; give one each."
        )
    if "inputs_embeds" in point.batch.inputs and point.node.sequence != "decoder":
        raise InputError(
            f"{rule} has no meaning in a batch of embeddings (inputs_embeds), which are no words; name rows: [3]."
        )
    matches = []
    for sample, (ids, is_picture) in enumerate(_texts(point)):
        word = rule.words[sample if rule.per_sample else 0]
        matches.append(word_occurrences(batch.tokenizer, ids, word, is_picture))
    absent = [s for s, places in enumerate(matches) if not -len(places) <= (rule.which or 0) < len(places)]
    if absent:
        raise InputError(_lacking(rule, batch, matches, absent))
    selection = [places if rule.which is None else [places[rule.which]] for places in matches]
    return [torch.tensor([at for tokens in places for at in tokens], dtype=torch.long) for places in selection]


def _texts(point: PointRows) -> list[tuple[list[int], list[bool]]]:
    """Per sample, the ids of its own tokens and of those that were written, and which of them stand for pictures."""
    name = "decoder_input_ids" if point.node.sequence == "decoder" else "input_ids"
    tensor = point.batch.inputs.get(name)
    pictures = own_pictures(point.batch) if name == "input_ids" else None
    texts = []
    for sample, rows in enumerate(point.known):
        ids = [] if tensor is None else tensor[sample].cpu()[rows[:, 1]].tolist()
        is_picture = [False] * len(rows) if pictures is None else pictures[sample].tolist()
        later = [] if point.written is None else list(point.written[sample])
        ids = ids or [-1] * len(rows)  # what a decoder starts from is known to the model alone
        texts.append((ids + later, ([True] * len(rows) if tensor is None else is_picture) + [False] * len(later)))
    return texts


def word_occurrences(tokenizer: Any, ids: Sequence[int], word: str, apart: Sequence[bool]) -> list[list[int]]:
    """The positions of every occurrence of a word, first to last; pieces that hold more than the word count too.

    Words are found in the decoded text and traced back by its length after each token, so it does not matter how a
    tokenizer splits or marks them.

    Args:
        tokenizer: decodes ids.
        ids: token ids of one sample.
        word: the word, or several with single spaces between them.
        apart: True at ids that are no text (pictures, padding); words do not reach across them, nor across special tokens.
    """
    special = set(tokenizer.all_special_ids)
    pattern = _pattern(word)
    result: list[list[int]] = []
    start = 0
    for end in range(len(ids) + 1):
        if end == len(ids) or apart[end] or ids[end] in special:
            if end > start:
                result += [
                    [start + at for at in numbers] for numbers in _within(tokenizer, list(ids[start:end]), pattern)
                ]
            start = end + 1
    return result


def _within(tokenizer: Any, ids: list[int], pattern: re.Pattern[str]) -> list[list[int]]:
    """The same in a run of ids that is text throughout."""

    def length(count: int, whole: bool) -> int:
        """Letters after so many ids; one of which only some bytes are there yet counts unless whole ones are asked for."""
        text = tokenizer.decode(ids[:count], skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return len(text.rstrip(INCOMPLETE)) + (text.endswith(INCOMPLETE) and not whole)

    def reaches(at: int, whole: bool = False) -> int:
        """The number of ids after which the text is at least so long."""
        low, high = 1, len(ids)
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if length(middle, whole) >= at else (middle + 1, high)
        return low

    text = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return [list(range(reaches(m.start() + 1) - 1, reaches(m.end(), whole=True))) for m in pattern.finditer(text)]


def _pattern(word: str) -> re.Pattern[str]:
    """A word between what is no letter or digit; scripts without spaces have no such edges."""
    before, after = ("" if unicodedata.category(edge) == "Lo" else r"\w" for edge in (word[0], word[-1]))
    expression = r"\s+".join(map(re.escape, word.split()))
    return re.compile(f"{before and '(?<!' + before + ')'}{expression}{after and '(?!' + after + ')'}", re.IGNORECASE)


def _lacking(rule: Word, batch: MultimodalBatch, matches: list[list[list[int]]], samples: list[int]) -> str:
    words = ", ".join(dict.fromkeys(rule.words[s if rule.per_sample else 0] for s in samples))
    if all(matches[sample] for sample in samples):
        return (
            f"{rule!r}: {words!r} stands {[len(matches[s]) for s in samples]} times in the text of samples {samples}."
        )
    texts = [batch.prompts[sample] for sample in samples[:2]] if batch.prompts else []
    near = nearest(words, WORDS)
    return (
        f"{words!r} does not stand in the text of samples {samples}"
        + (f" ({'; '.join(map(repr, texts))})" if texts else "")
        + f". A word that is no rule is looked for in the text; the rules that are words: {', '.join(map(repr, WORDS))}"
        + (f" (did you mean {near[0]!r}?)." if near else ".")
    )
