"""Sub-word tokenizers as checkpoints bring them: pieces of words, capitals, punctuation, bytes for what is unknown.

Vocabularies are written down rather than trained, so that they are the same everywhere: letters, and a few words whose pieces
are merged from the left. "the" and "red" are one token with a blank in front; "dog", "yes" and every capital are several.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE

#: Words of one token, each with a blank in front; the first half of the longer ones is a token too.
WHOLE = (
    *("the", "what", "is", "a", "an", "of", "in", "and", "on", "there", "how", "many", "where", "describe", "image"),
    *("color", "red", "blue", "green", "circle", "square", "moon", "grass", "image", "picture", "big", "small", "man"),
    *("You", "are", "helpful", "assistant", "user", "system", "holding", "answer"),
)
#: Pieces that begin other words or stand inside of them.
PIECES = ("ing", "er", "es", "th", "do", "ye", "He", "Th")


def _merges(blank: str) -> tuple[list[str], list[tuple[str, str]]]:
    """The tokens that merging makes, and the merges."""
    tokens: dict[str, None] = {}
    merges: dict[tuple[str, str], None] = {}
    for word in [*(blank + word for word in WHOLE), *PIECES]:
        for end in range(2, len(word) + 1):
            merges[word[: end - 1], word[end - 1]] = None
            tokens[word[:end]] = None
    return list(tokens), list(merges)


def byte_level(special: Sequence[str], *, bos: str | None = None) -> Tokenizer:
    """As GPT-2's, Qwen's and Llama 3's: letters are bytes; a token put in front of every text if `bos` is given."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merged, merges = _merges("Ġ")
    vocabulary = {token: number for number, token in enumerate([*letters, *merged])}
    made = Tokenizer(BPE(vocab=vocabulary, merges=merges, fuse_unk=False))
    made.normalizer = normalizers.NFC()
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    made.post_processor = (
        processors.ByteLevel(trim_offsets=False)
        if bos is None
        else processors.TemplateProcessing(
            single=f"{bos}:0 $A:0", pair=f"{bos}:0 $A:0 $B:0", special_tokens=[(bos, made.token_to_id(bos))]
        )
    )
    return made


def clip_pieces(special: Sequence[str]) -> Tokenizer:
    """As CLIP's: lower case, a mark at the end of every word, and the last two special tokens around every text."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate([*letters, *(f"{letter}</w>" for letter in letters)])}
    merges = []
    for word in WHOLE:
        pieces = [*word[:-1], f"{word[-1]}</w>"]
        if word.islower() and len(pieces) > 1:
            for end in range(1, len(pieces)):
                first = "".join(pieces[:end])
                merges.append((first, pieces[end]))
                vocabulary.setdefault(first + pieces[end], len(vocabulary))
    made = Tokenizer(
        BPE(vocab=vocabulary, merges=list(dict.fromkeys(merges)), end_of_word_suffix="</w>", fuse_unk=False)
    )
    made.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"), "removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    begin, end = special[-2:]
    made.post_processor = processors.RobertaProcessing(
        (end, made.token_to_id(end)),
        (begin, made.token_to_id(begin)),
        trim_offsets=False,
        add_prefix_space=False,
    )
    return made


def sentence_piece(first: Sequence[str], special: Sequence[str], *, bos: str, prefix: bool = True) -> Tokenizer:
    """As Llama 2's and Gemma's: blanks are `▁`, unknown letters are bytes.

    Args:
        first: tokens at the beginning of the vocabulary.
        special: further special tokens, behind the others.
        bos: put in front of every text.
        prefix: whether a text begins with a blank.
    """
    letters = ["▁", *map(chr, range(33, 127)), "\n"]
    merged, merges = _merges("▁")
    bytes_ = [f"<0x{number:02X}>" for number in range(256)]
    vocabulary = {token: number for number, token in enumerate([*first, *bytes_, *letters, *merged])}
    made = Tokenizer(BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    made.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="first" if prefix else "never", split=False)
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    made.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in [*first, *special]])
    made.post_processor = processors.TemplateProcessing(
        single=f"{bos}:0 $A:0", pair=f"{bos}:0 $A:0 $B:0", special_tokens=[(bos, made.token_to_id(bos))]
    )
    return made


def save(tokenizer: Tokenizer, folder: Path, config: dict[str, Any]) -> None:
    """Write `tokenizer.json` and `tokenizer_config.json`, as `save_pretrained` writes them on the hub."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False), encoding="utf-8")
