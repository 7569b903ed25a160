"""Words are found whatever a tokenizer makes of them: against the offsets that the tokenizer itself gives."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

import mmlens as mm
from mmlens.core import positions
from mmlens.core.errors import InputError
from mmlens.core.rules import as_rule
from mmlens.inputs.words import word_occurrences
from tests.tiny import TINY, picture

CORPUS = ["the moon is over the sea", "a moon, a big red circle and the sea.", "What colour is it? Moonlight!"] * 3
TEXTS = [
    "The moonlight is on the moon.",
    'Is the "Moon" a moon, or moon-like? MOON!',
    "a traffic  light and a Traffic light; no traffic, no light",
    "don't say naïve façades: naïve.",
    "月亮 是 moon 吗?月亮!",
]


def byte_level() -> PreTrainedTokenizerFast:
    """As GPT-2 and Qwen have it: pieces of bytes, blanks in front of words."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, special_tokens=["<s>"])
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>")


def sentence_pieces() -> PreTrainedTokenizerFast:
    """As LLaMA has it: pieces of letters, a mark for blanks, one in front of the text, bytes for the rest."""
    backend = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    special = ["<unk>", "<s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    backend.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=340, special_tokens=special))
    # bytes are pieces like others
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", unk_token="<unk>")


def word_pieces() -> PreTrainedTokenizerFast:
    """As BERT has it: pieces that go on with a word are marked."""
    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(cleanup=False)
    trainer = trainers.WordPieceTrainer(vocab_size=80, special_tokens=["[UNK]"])
    backend.train_from_iterator([*CORPUS, *TEXTS[:4]], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")


def expected(tokenizer: Any, text: str, word: str) -> list[list[int]]:
    """The tokens whose characters the word shares, by the tokenizer's own offsets."""
    offsets = tokenizer(text, return_offsets_mapping=True, add_special_tokens=False)["offset_mapping"]
    letters = r"(?<![^\W])" if word[0].isascii() else ""
    pattern = letters + r"\s+".join(map(re.escape, word.split())) + (r"(?![^\W])" if word[-1].isascii() else "")
    found = []
    for match in re.finditer(pattern, text, re.IGNORECASE):
        inside = [i for i, (start, end) in enumerate(offsets) if start < match.end() and end > match.start()]
        found.append(inside)
    return found


@pytest.mark.parametrize("make", [byte_level, sentence_pieces, word_pieces])
def test_the_pieces_of_a_word(make: Callable[[], Any]) -> None:
    tokenizer = make()
    several = 0
    for text in TEXTS if make is not word_pieces else TEXTS[:3]:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        for word in ("moon", "MOON", "Moonlight", "traffic light", "light", "naïve", "façades", "don't", "月亮", "sun"):
            if make is word_pieces and word == "don't":
                continue
            found = word_occurrences(tokenizer, ids, word, [False] * len(ids))
            right = expected(tokenizer, text, word)
            assert len(found) == len(right), (text, word)
            for tokens, offsets in zip(found, right, strict=True):
                # a lone blank piece in front of a word is none of its letters
                assert tokens in (offsets, offsets[1:]), (text, word, found, right)
                if tokens != offsets:
                    assert tokenizer.decode(ids[offsets[0]]).strip() == ""
            several += sum(len(tokens) > 1 for tokens in found)
    assert several > 3, "no word has several pieces, so nothing is tested"


def test_words_do_not_reach_across_pictures_and_special_tokens() -> None:
    tokenizer = byte_level()
    moon = tokenizer("moon", add_special_tokens=False)["input_ids"]
    assert len(moon) == 1 or len(moon) > 1
    halves = (
        tokenizer("mo", add_special_tokens=False)["input_ids"] + tokenizer("on", add_special_tokens=False)["input_ids"]
    )
    cut = len(tokenizer("mo", add_special_tokens=False)["input_ids"])
    picture_between = [*halves[:cut], 5, *halves[cut:]]
    apart = [number == cut for number in range(len(picture_between))]
    assert word_occurrences(tokenizer, picture_between, "moon", apart) == []
    assert word_occurrences(tokenizer, halves, "moon", [False] * len(halves)) == [list(range(len(halves)))]
    special = [*halves[:cut], tokenizer.bos_token_id, *halves[cut:]]
    assert word_occurrences(tokenizer, special, "moon", [False] * len(special)) == []
    assert word_occurrences(tokenizer, [tokenizer.bos_token_id], "s", [False]) == []  # "<s>" is no text


@torch.no_grad()
def test_words_of_a_batch() -> None:
    model = TINY[0].make()
    texts = ["the red circle", "what is the color of the circle", "red red"]
    batch = model.prepare(texts, images=[[picture(n)] for n in range(3)])
    ids = {word: model.to_single_token(word) for word in ("red", "the", "circle")}

    def rows(rule: Any) -> list[list[int]]:
        resolved = as_rule(rule)
        _, cache = model.run_with_cache(batch, names="hook_embed", positions=resolved)
        table = model.hf_model.get_input_embeddings().weight
        return [[int((table == row).all(-1).nonzero()[0]) for row in some] for some in cache.samples("hook_embed")]

    assert rows(positions.word(["red", "circle", "red"])) == [[ids["red"]], [ids["circle"]], [ids["red"]] * 2]
    assert rows(positions.word(["the", "the", "red"], which=-1)) == [[ids["the"]], [ids["the"]], [ids["red"]]]
    with pytest.raises(InputError, match=r"^'red' does not stand in the text of samples \[1\]"):
        rows("red")
    with pytest.raises(InputError, match=r"'circle' does not stand in the text of samples \[2\]"):
        rows(positions.word("circle"))
    with pytest.raises(InputError, match=r"which=1\): .* stands \[1\] times in the text of samples \[0\]"):
        rows(positions.word(["the", "the", "red"], which=1))
    with pytest.raises(InputError, match="word\\(\\) was given 2 words, and the batch has 3 samples"):
        rows(positions.word(["the", "the"]))
    bare = mm.HookedMultimodal.from_hf(model.hf_model)
    with pytest.raises(InputError, match="needs a tokenizer, and the model was wrapped without a processor"):
        bare.run_with_cache(dict(batch), names="hook_embed", positions="the")
    # tensors of the same model know the words too
    found = model.run_with_cache(dict(batch), names="hook_embed", positions=positions.word(["the", "the", "red"]))[1]
    assert found.counts["hook_embed"] == [1, 2, 2]
