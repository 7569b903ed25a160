"""Nouns of a caption, aligned with the tokens and steps that wrote them, whatever the tokenizer does to words."""

from unittest.mock import Mock

import pytest
import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from mmlens.analysis.nouns.caption_nouns import caption_nouns, caption_words
from mmlens.core.errors import InputError
from mmlens.models.generation import GenerationTrace
from mmlens.models.hooked import HookedMultimodal
from tests.conftest import Subject


def pieces_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level tokenizer that knows a few merges, so that words fall into pieces and spaces stick to them."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("Ġ", "d"), ("Ġd", "o"), ("Ġ", "c"), ("c", "a"), ("Ġc", "a")]
    vocab = {piece: i for i, piece in enumerate([*alphabet, *("".join(pair) for pair in merges)])}
    backend = Tokenizer(BPE(vocab=vocab, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend)


def spoken(text: str) -> tuple[HookedMultimodal, GenerationTrace]:
    """A stand-in for a model that generated a text."""
    tokenizer = pieces_tokenizer()
    ids = torch.tensor([tokenizer.encode(text)])
    logits = torch.zeros(1, ids.shape[1], 1)
    trace = GenerationTrace(ids, torch.tensor([ids.shape[1]]), {}, logits, logits, [[]], [text])
    return Mock(spec=HookedMultimodal, tokenizer=tokenizer, family=Mock(score=None)), trace


@pytest.mark.parametrize("text", ["a dog and a cat", "dogs chase a hot-dog, a cat; the dog's cat"])
def test_every_word_comes_with_exactly_its_own_pieces(text: str) -> None:
    model, trace = spoken(text)
    for word in caption_words(model, trace):  # type: ignore[arg-type]
        written = model.tokenizer.decode(word.tokens)
        assert written.strip(" ,;").lower() == word.text
        assert trace.tokens[0, word.step : word.step + len(word.tokens)].tolist() == list(word.tokens)


def test_words_that_share_their_first_piece_are_told_apart() -> None:
    model, trace = spoken("a cap on a cat")
    cap, cat = (w for w in caption_words(model, trace) if w.text in ("cap", "cat"))  # type: ignore[arg-type]
    assert cap.tokens[0] == cat.tokens[0]
    assert cap.step < cat.step
    assert model.tokenizer.decode(cat.tokens) == " cat"


def test_a_dropped_noun_does_not_shift_the_others() -> None:
    model, trace = spoken("a dog and a zebra and a cat")
    found = caption_nouns(model, trace, nouns=["horse", "dog", "cat"])  # type: ignore[arg-type]
    assert [(w.text, model.tokenizer.decode(w.tokens).strip()) for w in found] == [("dog", "dog"), ("cat", "cat")]


def test_a_repeated_noun_counts_once_at_its_first_mention() -> None:
    model, trace = spoken("a dog and a dog")
    (word,) = caption_nouns(model, trace, nouns=["dog"])  # type: ignore[arg-type]
    assert word.step == 1


def test_a_noun_of_several_words_is_one_and_its_last_word_is_not_another() -> None:
    model, trace = spoken("a traffic light, a cat, light; a hot dog")
    nouns = ["light", "traffic light", "cat light", "Hot  Dog"]
    found = caption_nouns(model, trace, nouns=nouns)  # type: ignore[arg-type]
    assert [word.text for word in found] == ["traffic light", "light", "hot dog"]  # "cat, light" is none
    assert [model.tokenizer.decode(word.tokens) for word in found] == ["traffic light", "light", "hot dog"]
    assert all(
        trace.tokens[0, word.step : word.step + len(word.tokens)].tolist() == list(word.tokens) for word in found
    )


def test_without_a_list_they_are_those_of_english() -> None:
    model, trace = spoken("There is a small dog on the grass; the Dog\u2019s tail wags.")
    assert [w.text for w in caption_nouns(model, trace)] == ["dog", "grass", "tail"]  # type: ignore[arg-type]


def test_a_single_noun_is_looked_for_as_people_write_it() -> None:
    model, trace = spoken("The Moon\u2019s light: one Caf\u00e9, Hot-Dogs and two black-and-white cats.")
    for noun, text in (("moon", "moon"), ("cafe", "caf\u00e9"), ("hot dogs", "hot-dogs"), ("CATS", "cats")):
        (word,) = caption_nouns(model, trace, nouns=noun)  # type: ignore[arg-type]
        assert word.text == text
        assert model.tokenizer.decode(word.tokens).strip().lower() == text


def test_a_callable_chooses() -> None:
    model, trace = spoken("a dog and a cat")
    assert [w.text for w in caption_nouns(model, trace, nouns=lambda text: [text.split()[-1]])] == ["cat"]  # type: ignore[arg-type]


def test_no_noun_is_an_error_that_shows_the_caption() -> None:
    model, trace = spoken("a dog")
    with pytest.raises(InputError, match="The caption 'a dog' has no noun among 'cat'; pass"):
        caption_nouns(model, trace, nouns=["cat"])  # type: ignore[arg-type]


def test_steps_are_those_that_predicted_the_word(subject: Subject) -> None:
    model = subject.model
    batch = model.prepare("what color is the circle", images=subject.batches["left"].images[0][0])
    trace = model.trace_generation(batch, names="hook_logits", max_new_tokens=6)
    for word in caption_words(model, trace):
        before = model.extend(batch, trace.tokens[:, : word.step])
        assert int(model(before)[0, -1].argmax()) == word.tokens[0]
