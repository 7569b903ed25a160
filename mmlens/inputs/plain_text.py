"""Text of users that reads like control tokens (`<eos>`, `<image>`) and is to be read as text all the same.

Such text is hidden in private characters while prompts are put together, so that neither a processor nor a tokenizer takes it
for a token; tokenizers then read it without looking for special tokens, as transformers does with `sanitize_control_tokens`.
"""

import copy
import re
from collections.abc import Callable, Sequence
from typing import Any

from mmlens.core.errors import InputError

#: Around hidden text, and what is added to the code of its characters: all in a private plane of Unicode.
_BEGIN, _END, _SHIFT = "\U000f0000", "\U000f0001", 0xF0010
_HIDDEN = re.compile(f"{_BEGIN}([^{_END}]*){_END}")


#: Tokens that begin, end or fill a text, as tokenizers name them.
_ENDS = ("bos_token", "eos_token", "pad_token", "unk_token", "sep_token", "cls_token", "mask_token")


def control_tokens(processor: Any, template: str, marks: Sequence[str]) -> list[str]:
    """The strings that control a prompt rather than say something: ends of texts and turns, and what stands for pictures.

    Other tokens of a model's own (`<ref>`, `<loc_12>`, `<grounding>`), which people write to ask for something, are none.

    Args:
        processor: Hugging Face's, or one like it.
        template: the chat template; empty if there is none.
        marks: what stands for pictures in a prompt.
    """
    tokenizer = processor.tokenizer
    ends = (getattr(tokenizer, name, None) for name in _ENDS)
    vocabulary = getattr(tokenizer, "added_tokens_decoder", {}).values()
    turns = (token.content for token in vocabulary if token.content in template)
    tokens = {*marks, *(str(end) for end in ends if end), *turns}
    return sorted((token for token in tokens if not token.isspace()), key=len, reverse=True)


def picture_tokens(tokenizer: Any, config: Any) -> tuple[str, ...]:
    """The tokens that a model's configuration names for pictures and videos: they are not for users to write."""
    ids = {
        value
        for key, value in getattr(config, "to_dict", dict)().items()
        if key.endswith(("_token_id", "_token_index")) and isinstance(value, int)
    }
    ends = {getattr(tokenizer, name.replace("token", "token_id"), None) for name in _ENDS}
    return tuple(
        tokenizer.convert_ids_to_tokens(sorted(number for number in ids - ends if 0 <= number < len(tokenizer)))
    )


def hidden(text: str, tokens: list[str]) -> str:
    """The text with what reads like one of these tokens hidden."""
    if not any(token in text for token in tokens):
        return text
    pattern = re.compile("|".join(map(re.escape, tokens)))
    return pattern.sub(lambda match: f"{_BEGIN}{''.join(chr(ord(c) + _SHIFT) for c in match[0])}{_END}", text)


def holds_hidden(text: str) -> bool:
    """Whether something is hidden in a text."""
    return _BEGIN in text


def revealed(text: str) -> str:
    """The text as the user wrote it."""
    return _HIDDEN.sub(lambda match: "".join(chr(ord(c) - _SHIFT) for c in match[1]), text)


def reading_hidden(processor: Any) -> Any:
    """A copy of a processor whose tokenizers read hidden text as text."""
    reader = copy.copy(processor)
    for name, value in vars(processor).items():
        if name.endswith("tokenizer") and callable(value):
            setattr(reader, name, _reading(value))
    return reader


def _reading(tokenizer: Any) -> Any:
    """A copy of a tokenizer that reads hidden text as text."""
    base = type(tokenizer)

    def call(self: Any, text: Any = None, **options: Any) -> Any:
        texts = [text] if isinstance(text, str) else text
        if not texts or not any(map(holds_hidden, texts)):
            return base.__call__(self, text, **options)
        padding = {
            name: options.pop(name)
            for name in ("padding", "padding_side", "return_tensors", "max_length")
            if name in options
        }

        def tokenize(line: str) -> list[int]:
            return list(base.__call__(self, line, **options)["input_ids"])

        rows = [_ids(tokenize, self, line) for line in texts]
        encoding = self.pad({"input_ids": rows}, **padding)
        return encoding if texts is text else type(encoding)({name: value[0] for name, value in encoding.items()})

    reader = copy.copy(tokenizer)
    reader.__class__ = type(base.__name__, (base,), {"__call__": call})
    return reader


def _ids(tokenize: Callable[[str], list[int]], tokenizer: Any, text: str) -> list[int]:
    """The token ids of a text: a special token stands in for each hidden piece, and gives way to the piece's own ids."""
    pieces = [revealed(match[0]) for match in _HIDDEN.finditer(text)]
    for token in tokenizer.added_tokens_decoder.values():
        if not token.special or token.lstrip or token.rstrip or token.content in text:
            continue
        place = tokenizer.convert_tokens_to_ids(token.content)
        ids = tokenize(token.content.join(_HIDDEN.split(text)[::2]))
        lead, trail = _at_ends(tokenize(""), place, tokenizer)
        inner = ids[lead : len(ids) - trail]
        if inner.count(place) == len(pieces):
            break
    else:
        raise InputError(
            f"The text holds control tokens of the model ({', '.join(pieces)}), which cannot be read as text."
        )
    queue = iter(pieces)
    read = [number for id_ in inner for number in (_plain(tokenizer, next(queue)) if id_ == place else [id_])]
    return [*ids[:lead], *read, *ids[len(ids) - trail :]]


def _at_ends(around: list[int], token: int, tokenizer: Any) -> tuple[int, int]:
    """Whether a token is what a tokenizer puts in front of every text, and behind it: 0 or 1 each.

    Args:
        around: the ids of an empty text.
        token: the token's id.
        tokenizer: the tokenizer.
    """
    lead = int(around[:1] == [token] and token == getattr(tokenizer, "bos_token_id", None))
    return lead, int(around[lead:][-1:] == [token])


def _plain(tokenizer: Any, piece: str) -> list[int]:
    """The token ids of a piece of text inside of a line, read without looking for special tokens."""
    options = {"add_special_tokens": False, "split_special_tokens": True}
    before, together = (tokenizer.encode(line, **options) for line in ("\n", f"\n{piece}"))
    # behind a line break, as some tokenizers put a blank in front of a text
    ids = together[len(before) :] if together[: len(before)] == before else tokenizer.encode(piece, **options)
    special = set(tokenizer.all_special_ids)  # where a vocabulary of whole words holds them as words
    return [tokenizer.unk_token_id if id_ in special and tokenizer.unk_token_id is not None else id_ for id_ in ids]
