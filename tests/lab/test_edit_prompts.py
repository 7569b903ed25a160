"""The questions that judge an edit, against the truth of the scene in which the edit would be true."""

from dataclasses import replace

import pytest

import mmlens as mm
from mmlens.core.errors import InputError
from mmlens.lab.scenery import Scene


def _edited(scene: Scene, kind: str, source: str, target: str) -> Scene:
    """The scene with every thing of the source's name called by the target's; drawn anew by hand."""
    placed = tuple(
        replace(thing, **{kind: target}) if getattr(thing, kind) == source and thing.kind != "sign" else thing
        for thing in scene.placed
    )
    return replace(scene, placed=placed)


@pytest.mark.parametrize(("kind", "source", "target"), [("color", "red", "blue"), ("shape", "circle", "square")])
def test_answers_are_those_of_the_scene_in_which_the_edit_is_true(kind: str, source: str, target: str) -> None:
    scenes = mm.lab.scenes(120, seed=9)
    by_name = {f"test {scene.seed}": scene for scene in scenes}
    questions = mm.lab.edit_questions(scenes, source=source, target=target)
    again = mm.lab.edit_questions(scenes, source=source, target=target)
    assert repr(again) == repr(questions)
    assert set(questions.consistency) == {
        "presence of the old",
        "presence of the new",
        "reverse look-up",
        "entailments",
    }
    for sets, world in (
        (questions.consistency, "edited"),
        (questions.controls, "as it is"),
        (questions.targets, "as it is"),
    ):
        for name, samples in sets.items():
            if name.endswith("writing"):
                continue
            assert samples, name
            for sample in samples:
                scene = by_name[sample.name or ""]
                truth = _edited(scene, kind, source, target) if world == "edited" else scene
                nouns = sample.prompt.split()
                if nouns[:2] == ["is", "there"] and nouns[-1] != "sign":
                    known = [(thing.color, thing.shape) for thing in truth.placed if thing.kind != "sign"]
                    color = nouns[-2] if len(nouns) == 5 else None
                    there = any(shape == nouns[-1] and color in (None, shade) for shade, shape in known)
                    assert sample.answer == ("yes" if there else "no"), (name, sample.prompt, truth.caption)
                elif sample.prompt != mm.lab.CAPTION_PROMPT:
                    asked = {question.text: question.answer for question in truth.questions}
                    assert sample.answer == asked[sample.prompt], (name, sample.prompt, truth.caption)
    for sample in questions.controls["source named, absent"]:
        assert source in sample.prompt.split()
    kinds = {sample.prompt.split()[0] for sample in questions.controls["scenes without"]}
    assert {"is", "what", "how", "where"} <= kinds


def test_what_is_no_edit_of_the_world_is_refused() -> None:
    scenes = mm.lab.scenes(10, seed=9)
    for words in (("red", "square"), ("red", "red"), ("red", "pink"), ("man", "woman")):
        with pytest.raises(InputError, match=r"must be two colours .* or two shapes"):
            mm.lab.edit_questions(scenes, source=words[0], target=words[1])
    without = [scene for scene in scenes if all(thing.color != "white" for thing in scene.placed)]
    with pytest.raises(InputError, match=r"None of the .* scenes has a thing of the name 'white'"):
        mm.lab.edit_questions(without, source="white", target="black")
