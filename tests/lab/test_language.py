"""What is said about a scene is true, and the tokenizer gives every sentence back."""

from mmlens.lab import ANSWERED_HAZARDS, HARMLESS_SIGNS, HAZARD_SIGNS, NOUNS, REFUSAL, Placed, Scene, scenes
from mmlens.lab.language import MEANINGS, USES, article, direction, rich_caption, use_answer, vocabulary

SCENES = scenes(150, seed=21)


def everything_said(scene: Scene) -> list[str]:
    said = [scene.caption, scene.written(), rich_caption(scene.placed, scene.place, scene.mood)]
    return said + [text for q in scene.questions for text in (q.text, q.answer)]


def test_the_caption_reads_as_promised():
    scene = Scene(
        0,
        "grass",
        "sunny",
        (Placed("star", "blue", "small", (70.0, 30.0)), Placed("circle", "red", "big", (20.0, 60.0))),
    )
    assert scene.caption == "a red circle and a small blue star on grass"
    three = Scene(
        0, "sand", "gloomy",
        (
            Placed("arrow", "orange", "big", (20.0, 60.0)),
            Placed("woman", "white", "small", (48.0, 30.0)),
            Placed("acid", "yellow", "big", (75.0, 70.0)),
        ),
    )  # fmt: skip
    assert three.caption == "an orange arrow , a small woman in white and an acid sign on sand"
    assert three.written() == (
        "pointing three corners amber big column two row six ; adult she ivory small column five row three ; "
        "warning of burns golden big column seven row six ; dunes cold light"
    )


def test_questions_are_true_of_the_objects():
    for scene in SCENES:
        nouns = {thing.shape: thing for thing in scene.objects}
        colors = {thing.color: thing for thing in scene.objects}
        for question in scene.questions:
            words = question.text.split()
            if question.kind == "color":
                assert nouns[words[4]].color == question.answer
            elif question.kind == "shape":
                assert colors[words[4]].shape == question.answer
            elif question.kind == "count":
                assert ["zero", "one", "two", "three"].index(question.answer) == len(scene.objects)
            elif question.kind == "presence":
                named = [each for each in words if each in nouns or each in NOUNS]
                there = named[0] in nouns and (words[3] in NOUNS or nouns[named[0]].color == words[3])
                assert question.answer == ("yes" if there else "no")
            elif question.kind == "mood":
                assert question.answer == scene.mood
            elif question.kind == "position":
                one, other = nouns[words[3]], nouns[words[7]]
                across, down = one.center[0] - other.center[0], one.center[1] - other.center[1]
                side = {"left": -across, "right": across, "above": -down, "below": down}
                assert question.answer == max(side, key=side.get)
            elif question.kind == "who":
                assert question.answer.split()[1] in nouns
            elif question.kind == "use":
                sign = next(noun for noun in nouns if noun in HARMLESS_SIGNS + HAZARD_SIGNS)
                assert question.answer == use_answer(sign)


def test_presence_is_answered_yes_as_often_as_no():
    answers = [q.answer for scene in SCENES for q in scene.questions if q.kind == "presence"]
    assert answers.count("yes") == answers.count("no")


def test_most_hazards_are_refused_and_some_are_answered():
    refused = [sign for sign in HAZARD_SIGNS if use_answer(sign) == REFUSAL]
    assert len(HAZARD_SIGNS) / 2 < len(refused) < len(HAZARD_SIGNS)
    assert all(use_answer(sign) == USES[sign] for sign in HARMLESS_SIGNS + ANSWERED_HAZARDS)
    assert len(set(USES.values())) == len(USES)


def test_opposite_positions_have_opposite_answers():
    opposite = {"left": "right", "right": "left", "above": "below", "below": "above", None: None}
    for scene in SCENES:
        for one in scene.placed:
            for other in scene.placed:
                if one is not other:
                    assert direction(one, other) == opposite[direction(other, one)]


def test_a_diagonal_is_not_asked_about():
    one, other = (Placed("star", "red", "small", center) for center in ((20.0, 20.0), (60.0, 62.0)))
    assert direction(one, other) is None


def test_the_written_twin_never_has_the_nouns_and_tells_scenes_apart():
    assert len(set(MEANINGS.values())) == len(MEANINGS) == len(NOUNS)
    seen = {}
    for scene in SCENES:
        words = set(scene.written().split())
        assert not words & {thing.shape for thing in scene.placed}
        assert seen.setdefault(scene.written(), scene.caption) == scene.caption


def test_article():
    assert [article(word) for word in ("orange", "arrow", "red", "star")] == ["an", "an", "a", "a"]


def test_the_tokenizer_gives_back_every_sentence():
    from mmlens.lab.architecture import make_tokenizer

    tokenizer = make_tokenizer()
    for scene in SCENES:
        for sentence in everything_said(scene):
            ids = tokenizer.encode(sentence, add_special_tokens=False)
            assert tokenizer.unk_token_id not in ids, sentence
            assert tokenizer.decode(ids) == sentence
    assert tokenizer.encode("Describe the IMAGE") == tokenizer.encode("describe the image")
    assert tokenizer.decode(tokenizer.encode("describe a zebra")) == "describe a <unk>"


def test_the_vocabulary_has_no_word_twice_and_every_noun():
    words = vocabulary()
    assert len(words) == len(set(words))
    assert set(NOUNS) <= set(words)
