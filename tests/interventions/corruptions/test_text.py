"""Corruptions of the text: the same layout with other words."""

import pytest
import torch

from mmlens.core.errors import InputError
from mmlens.interventions.corruptions import replace_words
from mmlens.models.hooked import HookedMultimodal
from tests.conftest import Subject
from tests.tiny import picture


@pytest.mark.parametrize("side", ["left", "right"])
def test_words_are_replaced_one_by_one(subject: Subject, side: str) -> None:
    model = subject.model
    texts = ["what color is the circle", "where is the small red circle"]
    others = ["what color is the grass", "where is the small red grass"]
    images = [[picture(0)], [picture(1)]]
    asked = model.prepare(texts, images=images, padding_side=side)  # type: ignore[arg-type]
    expected = model.prepare(others, images=images, padding_side=side)  # type: ignore[arg-type]
    found = replace_words(model, asked, {"circle": "grass"})
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert torch.equal(found.layout.is_image, asked.layout.is_image)


def test_whole_words_alone_are_meant_and_swaps_go_both_ways(llava: Subject) -> None:
    model = llava.model
    asked = model.prepare("is a red circle an red and blue image", images=picture(0))
    found = replace_words(model, asked, {"a": "the", "red": "blue", "blue": "red"})
    expected = model.prepare("is the blue circle an blue and red image", images=picture(0))
    assert torch.equal(found["input_ids"], expected["input_ids"])


def test_of_words_that_hold_others_the_longest_is_meant(llava: Subject) -> None:
    model = llava.model
    asked = model.prepare("the big red circle is big", images=picture(0))
    for words in ({"big": "small", "big red": "red big"}, {"big red": "red big", "big": "small"}):
        expected = model.prepare("the red big circle is small", images=picture(0))
        assert torch.equal(replace_words(model, asked, words)["input_ids"], expected["input_ids"])


def test_a_word_of_no_token_is_unknown(subword: HookedMultimodal) -> None:
    """Whatever a tokenizer puts in front of every text."""
    asked = subword.prepare("the image", images=picture(0))
    with pytest.raises(InputError, match=r"^'' is unknown to the tokenizer, which makes \[\] of it; choose a word"):
        replace_words(subword, asked, {"image": ""})


def test_other_lengths_and_missing_words_are_refused(llava: Subject) -> None:
    model = llava.model
    asked = model.prepare(["the red image", "the blue image"], images=[[picture(0)], [picture(1)]])
    with pytest.raises(
        InputError, match=r"Sample 0 has \d+ tokens and would have \d+; replace 'the' by words of as many"
    ):
        replace_words(model, asked, {"the": "the big"})
    with pytest.raises(InputError, match=r"The prompts of samples \[1\] hold none of the words 'red'"):
        replace_words(model, asked, {"red": "green"})
    with pytest.raises(InputError, match=r"'zebra' is unknown to the tokenizer, which makes \['<unk>'\] of it"):
        replace_words(model, asked, {"the": "zebra"})
    with pytest.raises(InputError, match="'the' would be replaced by the same word"):
        replace_words(model, asked, {"the": "the"})
    with pytest.raises(InputError, match="was given no words"):
        replace_words(model, asked, {})
    with pytest.raises(InputError, match="needs the prompts, and this batch was made from tensors"):
        replace_words(model, model.batch(dict(asked)), {"red": "green"})
    with pytest.raises(InputError, match="holds tokens that are not in its prompts"):
        replace_words(model, model.extend(asked, torch.tensor([[9], [9]])), {"the": "a"})
