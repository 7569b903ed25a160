"""Answers and captions are compared by their words: nothing that people write differently for no reason counts."""

import pytest

import mmlens as mm
from mmlens.core.answer_text import is_answer, normalised, says, words_of


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("A man holding a dog.", "a man holding a dog"),
        ("Yes.", "yes"),
        ("YES!!", "yes"),
        (" \u201cyes\u201d \n", "yes"),
        ("the dog\u2019s ball", "the dog ball"),
        ("don't / don\u2019t / dont", "dont dont dont"),
        ("caf\u00e9 cafe\u0301 cafe", "cafe cafe cafe"),
        ("Stra\u00dfe", "strasse"),
        ("black-and-white", "black and white"),
        ("Two dogs, 2 cats, twenty-one birds", "2 dogs 2 cats 20 1 birds"),
        ("1,000 or 1,5 or 3.5 or 7.", "1000 or 1 5 or 3.5 or 7"),
        ("U.S.A. a.m.", "u s a a m"),
        ("snake_case #tag @name", "snake case tag name"),
        ("\u732b is a cat", "\u732b is a cat"),
        ("... ?!", ""),
        ("", ""),
    ],
)
def test_texts_are_their_words(text: str, words: str) -> None:
    assert normalised(text) == words
    assert normalised(words) == words
    assert words_of(text) == words.split()


def test_whole_words_are_said_however_they_are_written() -> None:
    assert says("A man holding a dog.", "dog")
    assert says("A man holding a Dog!", ["cat", "DOG"])
    assert says("It is a traffic-light.", "traffic light")
    assert says("there are two", "2")
    assert not says("hotdogs and a dogma", "dog")
    assert not says("nose", "no")
    assert not says("light of the traffic", "traffic light")
    assert not says("anything", ["", "..."])  # a phrase without words is said by none
    assert not says("", "dog")


def test_answers_may_be_several() -> None:
    assert is_answer("Red.", "red")
    assert is_answer("red", ("crimson", "Red"))
    assert not is_answer("dark red", "red")
    assert not is_answer("red", ())


def test_they_are_public() -> None:
    assert mm.scorers.normalised("Yes.") == "yes"
    assert mm.scorers.says("A dog.", "dog")
