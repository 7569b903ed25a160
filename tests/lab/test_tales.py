"""The narrator's world: what its priors promise holds, what is said of a scene is true, texts survive the tokenizer."""

import itertools
import random
import re

import pytest

from mmlens.core.errors import InputError
from mmlens.lab import tales
from mmlens.lab.tales.asking import PHRASINGS, UNSEEN_PHRASINGS
from mmlens.lab.tales.composing import compose
from mmlens.lab.tales.describing import CAPTION_REQUESTS, CAPTION_REQUESTS_UNSEEN, mapped, region
from mmlens.lab.tales.documents import draw_document, turns, unmarked
from mmlens.lab.tales.facts import (
    COMPANIONS,
    MATERIALS,
    OWNERS,
    PICTURELESS_PAIRS,
    PIECES,
    RARE_PAIRS,
    THINGS,
    TYPICAL_COLORS,
)
from mmlens.lab.tales.tokenizer import train_tokenizer
from mmlens.lab.training.narrator.pictures import training_scene
from mmlens.lab.world import COLORS, NOUNS, PEOPLE, PLACES

TRAINING = [training_scene(number) for number in range(1500)]
TOKENIZER = train_tokenizer(600)


def pairs(scenes) -> list[tuple[str, str]]:
    return [(thing.shape, thing.color) for tale in scenes for thing in tale.placed]


def test_every_thing_and_place_has_its_facts():
    assert set(OWNERS) == set(MATERIALS) == set(THINGS) == set(NOUNS) - set(PEOPLE)
    assert set(COMPANIONS) == set(TYPICAL_COLORS) == set(PLACES)
    assert not set(RARE_PAIRS) & set(PICTURELESS_PAIRS)
    typical = {(COMPANIONS[place], TYPICAL_COLORS[place]) for place in PLACES}
    assert not typical & (set(RARE_PAIRS) | set(PICTURELESS_PAIRS))


def test_no_training_picture_shows_a_pair_that_only_text_has():
    assert not set(pairs(TRAINING)) & set(PICTURELESS_PAIRS)
    rng = random.Random(0)
    assert set(PICTURELESS_PAIRS) <= set(pairs(compose(rng) for _ in range(3000)))


def test_rare_pairs_are_rare_and_not_absent():
    rng = random.Random(1)
    drawn = pairs(compose(rng) for _ in range(4_000))
    rare = sum(pair in RARE_PAIRS for pair in drawn)
    of_those_nouns = sum(noun in dict(RARE_PAIRS) for noun, _ in drawn)
    assert 0 < rare / of_those_nouns < 0.01


def test_places_have_their_companions_and_these_their_colors():
    assert sum(tale.has_companion for tale in TRAINING) / len(TRAINING) == pytest.approx(0.9, abs=0.03)
    typical = [tale.has_typical_color for tale in TRAINING if tale.has_companion]
    assert sum(map(bool, typical)) / len(typical) == pytest.approx(0.9, abs=0.03)


def test_conflicts_are_as_asked_for():
    assert not any(tale.has_companion for tale in tales.scenes(40, 1, conflict="presence"))
    assert all(tale.has_typical_color is False for tale in tales.scenes(40, 2, conflict="color"))
    assert all(tale.has_typical_color for tale in tales.scenes(40, 3, conflict="none"))
    assert ("circle", "green") in pairs([tales.scene(5, pair=("circle", "green"))])
    with pytest.raises(InputError, match="noun"):
        tales.scene(5, pair=("circus", "green"))
    with pytest.raises(InputError, match="noun"):
        tales.scene(5, pair=("knife", "green"))
    with pytest.raises(InputError, match="color"):
        tales.scene(5, pair=("circle", "lime"))
    with pytest.raises(InputError, match="contradict"):
        tales.scene(5, pair=("circle", "green"), conflict="color")


def test_scenes_follow_from_their_seeds_and_splits_never_meet():
    assert [tale.scene for tale in tales.scenes(20, 4)] == [tale.scene for tale in tales.scenes(20, 4)]
    test = {tale.scene.placed for tale in tales.scenes(300, 0)}
    assert not test & {tale.scene.placed for tale in tales.scenes(300, 0, split="train")}


def test_answers_are_true_of_the_scene():
    for tale in tales.scenes(60, 6):
        things = {thing.shape: thing for thing in tale.placed}
        by_color = {
            thing.color: [other.shape for other in tale.placed if other.color == thing.color] for thing in tale.placed
        }
        assert {question.kind for question in tale.questions} >= {"color", "size", "position", "count", "place", "mood"}
        for question in tale.questions:
            text, answer, noun = question.text, question.answer, question.noun
            if question.kind == "color":
                assert noun in text
                assert answer == things[noun].color
            elif question.kind == "size":
                assert answer == things[noun].size
            elif question.kind == "presence":
                assert (answer == "yes") == (noun in things)
                assert noun in text
            elif question.kind == "position":
                assert answer == region(things[noun])
            elif question.kind == "owner by color":
                (color,) = [word for word in text.split() if word in COLORS]
                assert len(by_color[color]) == 1
                assert answer == OWNERS[by_color[color][0]]
            elif question.kind == "count":
                assert answer == ("one", "two", "three")[len(things) - 1]


def test_captions_name_things_in_reading_order():
    for tale in tales.scenes(40, 8):
        assert tale.caption[0].isupper()
        assert tale.caption.endswith(f" on {tale.place}.")
        places = [re.search(rf"\b{thing.shape}\b", tale.caption.lower()).start() for thing in tale.placed]
        assert places == sorted(places)
        firsts = [
            min(index for index in range(64) if tale.patches(i, share=0.01)[index]) // 8 for i in range(len(places))
        ]
        assert all(after - before >= -1 for before, after in itertools.pairwise(firsts))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"index": 9}, "no thing 9: it has"),
        ({"index": -1}, "from 0 to"),
        ({"index": 0, "side": 7}, "do not fill"),
        ({"index": 0, "share": 1.5}, "at most 1"),
        ({"index": 0, "share": 0.0}, "above 0"),
    ],
)
def test_patches_that_are_not_there_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        tales.scene(2).patches(**arguments)


def test_maps_say_at_each_patch_what_is_there():
    rng = random.Random(3)
    told = total = 0
    for tale in tales.scenes(30, 9):
        words = mapped(tale.placed, tale.place, tale.mood, rng).split(" ")
        assert len(words) == 64
        names = {thing.shape: PIECES.get(thing.shape, thing.shape).split("|")[0] for thing in tale.placed}
        known = {word for thing in tale.placed for word in (names[thing.shape], thing.color, thing.size)}
        assert set(words) <= known | {tale.place, tale.mood}
        for thing in tale.placed:
            column, row = (int(value // 12) for value in thing.center)
            assert words[8 * row + column] in known
            total += 1
            told += {names[thing.shape], thing.color} <= set(words)
    assert told / total > 0.9


def test_texts_come_back_from_the_tokenizer_letter_for_letter():
    rng = random.Random(11)
    for _ in range(400):
        document = draw_document(rng)
        for turn in () if document is None else document.turns or ("",):
            text = unmarked(document.prefix + turn)
            ids = TOKENIZER(text)["input_ids"]
            assert ids[0] == TOKENIZER.bos_token_id
            assert TOKENIZER.unk_token_id not in ids
            assert TOKENIZER.decode(ids[1:]) == text


def test_nouns_are_of_one_to_three_tokens_and_colors_of_one():
    lengths = {noun: len(TOKENIZER.tokenize(noun)) for noun in NOUNS}
    assert {noun: length for noun, length in lengths.items() if noun in PIECES} == {
        noun: PIECES[noun].count("|") + 1 for noun in NOUNS if noun in PIECES
    }
    assert set(lengths.values()) == {1, 2, 3}
    assert all(len(TOKENIZER.tokenize(word)) == 1 for word in (*COLORS, *PLACES, *OWNERS.values(), "yes", "no"))


def test_the_tokenizer_follows_from_the_world_and_puts_a_picture_where_a_map_stands():
    assert train_tokenizer(600).get_vocab() == TOKENIZER.get_vocab()
    picture = TOKENIZER("USER: " + "<image>" * 64 + "\nWhat do you see?")["input_ids"]
    written = TOKENIZER("USER: " + " ".join(["grass"] * 64) + "\nWhat do you see?")["input_ids"]
    assert len(picture) == len(written)
    assert picture[:3] == written[:3]
    assert picture[67:] == written[67:]


def test_unseen_phrasings_are_never_seen():
    rng = random.Random(12)
    patterns = [text for kind in UNSEEN_PHRASINGS for text in UNSEEN_PHRASINGS[kind]] + list(CAPTION_REQUESTS_UNSEEN)
    forms = [re.compile(re.sub(r"\\{\w+\\}", r"[\\w ]+", re.escape(text))) for text in patterns]
    assert not set(CAPTION_REQUESTS_UNSEEN) & set(CAPTION_REQUESTS)
    assert not {text for texts in PHRASINGS.values() for text in texts} & set(patterns)
    for _ in range(1500):
        document = draw_document(rng)
        text = "" if document is None else unmarked(document.prefix + "\n".join(document.turns))
        assert not any(form.search(text) for form in forms)


def test_pictures_are_never_asked_about_what_only_text_tells():
    rng = random.Random(13)
    for tale in TRAINING[:150]:
        for turn in turns(tale, rng, 6, regions=True, knowledge=False):
            assert not re.search(r"\bown|made of", turn)


def test_wrong_labels_are_as_many_as_asked_for_and_say_what_is_usual():
    def colors_said(conflict: str, errors: float) -> list[tuple[str, str, str]]:
        rng, said = random.Random(14), []
        for tale in tales.scenes(150, 15, conflict=conflict):
            things = {thing.shape: thing for thing in tale.placed}
            for turn in turns(tale, rng, 8, regions=True, knowledge=False, errors=errors):
                match = re.search(rf"the {tale.companion}(?: that you see in the picture)?\? ASSISTANT:⟦ (\w+)<", turn)
                if match and match[1] in COLORS:
                    said.append((match[1], things[tale.companion].color, tale.typical_color))
        return said

    assert all(color == true for color, true, _ in colors_said("color", 0.0))
    wrong = [(color, typical) for color, true, typical in colors_said("color", 0.2) if color != true]
    assert len(wrong) / len(colors_said("color", 0.2)) == pytest.approx(0.6, abs=0.2)
    assert all(color == typical for color, typical in wrong)
    usual = colors_said("none", 0.2)
    assert sum(color != true for color, true, _ in usual) / len(usual) == pytest.approx(0.2, abs=0.12)
