"""Scenes are seeded, their truth hangs together, twins differ where they should and nowhere else."""

import hashlib
import json

import numpy as np
import pytest
from PIL import Image

from mmlens.core.errors import InputError
from mmlens.lab import COLORS, MOODS, NOUNS, PLACES, SIZES, Placed, Scene, scene, scenes
from mmlens.lab.drawing.canvas import coverage

SCENES = scenes(60, seed=5)


def pick(noun_kinds: tuple[str, ...], count: int | None = None) -> Scene:
    """The first scene whose objects' kinds contain those given."""
    for each in SCENES:
        kinds = [thing.kind for thing in each.placed]
        if all(kind in kinds for kind in noun_kinds) and count in (None, len(kinds)):
            return each
    raise AssertionError(f"no scene with {noun_kinds}")


def difference(one: Scene, other: Scene) -> np.ndarray:
    return (np.asarray(one.image) != np.asarray(other.image)).any(axis=2)


def test_the_same_seed_gives_the_same_bytes():
    digest = hashlib.sha256()
    for each in scenes(12, seed=3):
        digest.update(each.image.tobytes())
        digest.update(json.dumps(each.truth()).encode())
    again = hashlib.sha256()
    for each in scenes(12, seed=3):
        again.update(Scene(each.seed, each.place, each.mood, each.placed).image.tobytes())
        again.update(json.dumps(scene(each.seed).truth()).encode())
    assert digest.hexdigest() == again.hexdigest()


def test_sets_with_different_seeds_and_splits_share_no_picture():
    drawn = [scenes(40, seed=0), scenes(40, seed=1), scenes(40, seed=0, split="train")]
    hashes = [{each.image.tobytes() for each in some} for some in drawn]
    assert [len(some) for some in hashes] == [40, 40, 40]
    assert not hashes[0] & hashes[1]
    assert not hashes[0] & hashes[2]
    assert not hashes[1] & hashes[2]


def test_a_set_is_made_of_the_scenes_its_seeds_name():
    assert scenes(3, seed=2)[1] == scene(2_000_001)
    assert scenes(8)[7] == scene(7)


def test_many_scenes_use_the_whole_world():
    many = scenes(400, seed=9)
    placed = [thing for each in many for thing in each.placed]
    assert {thing.shape for thing in placed} == set(NOUNS)
    assert {thing.color for thing in placed} == set(COLORS)
    assert {thing.size for thing in placed} == set(SIZES)
    assert {each.place for each in many} == set(PLACES)
    assert {each.mood for each in many} == set(MOODS)
    assert {len(each.placed) for each in many} == {1, 2, 3}


def test_objects_tell_what_was_placed():
    for each in SCENES:
        assert [(o.shape, o.color, o.size) for o in each.objects] == [(p.shape, p.color, p.size) for p in each.placed]
        for thing in each.objects:
            left, top, right, bottom = thing.box
            assert left <= thing.center[0] <= right
            assert top <= thing.center[1] <= bottom


def test_colour_twin_changes_only_that_object():
    original = pick(("shape",), 2)
    index = next(i for i, thing in enumerate(original.placed) if thing.kind == "shape")
    color = "blue" if original.placed[index].color != "blue" else "red"
    twin = original.twin(color=color, object=index)
    changed = difference(original, twin)
    assert changed[original.objects[index].mask].mean() > 0.6
    assert not changed[coverage(original.placed[index]) == 0].any()
    assert twin.objects[index].color == color
    assert (twin.objects[index].mask == original.objects[index].mask).all()
    assert color in twin.caption
    assert (twin.place, twin.mood) == (original.place, original.mood)


def test_shape_twin_changes_only_where_either_shape_is():
    original = pick(("shape",))
    index = next(i for i, thing in enumerate(original.placed) if thing.kind == "shape")
    shape = "star" if original.placed[index].shape != "star" else "circle"
    twin = original.twin(shape=shape, object=index)
    either = (coverage(original.placed[index]) > 0) | (coverage(twin.placed[index]) > 0)
    assert difference(original, twin)[either].any()
    assert not difference(original, twin)[~either].any()
    assert shape in twin.caption
    assert twin.objects[index].color == original.objects[index].color


def test_place_twin_changes_only_the_ground():
    original = SCENES[0]
    place = next(each for each in PLACES if each != original.place)
    twin = original.twin(place=place)
    full = np.max([coverage(thing) for thing in original.placed], axis=0) == 1
    changed = difference(original, twin)
    assert not changed[full].any()
    assert changed[~full].mean() > 0.9
    assert twin.caption == original.caption.replace(f"on {original.place}", f"on {place}")


def test_mood_twin_keeps_caption_and_masks():
    original = SCENES[1]
    twin = original.twin(mood=next(mood for mood in MOODS if mood != original.mood))
    assert difference(original, twin).mean() > 0.9
    assert twin.caption == original.caption
    for one, other in zip(original.objects, twin.objects, strict=True):
        assert (one.mask == other.mask).all()


@pytest.mark.parametrize("gender", ["man", "woman", "person"])
def test_gender_twin_finds_the_person(gender):
    original = pick(("person",))
    index = next(i for i, thing in enumerate(original.placed) if thing.kind == "person")
    twin = original.twin(gender=gender)
    assert twin.objects[index].shape == gender
    assert [q.answer for q in twin.questions if q.kind == "who"] == [f"a {gender}"]
    either = (coverage(original.placed[index]) > 0) | (coverage(twin.placed[index]) > 0)
    assert not difference(original, twin)[~either].any()


@pytest.mark.parametrize("side", ["left", "right", "above", "below"])
def test_position_twin_moves_the_object_to_that_side(side):
    pair = (Placed("circle", "red", "small", (20.0, 20.0)), Placed("star", "blue", "big", (50.0, 46.0)))
    original = Scene(0, "sand", "sunny", pair)
    twin = original.twin(position=side, object=0)
    one, other = (thing.shape for thing in twin.placed)
    asked = {q.text: q.answer for q in twin.questions}
    assert asked[f"where is the {one} seen from the {other}"] == side
    assert twin.placed[1] == original.placed[1]


def test_position_twin_takes_a_centre_and_refuses_an_occupied_one():
    original = pick(("shape",), 2)
    taken = original.placed[1].center
    with pytest.raises(InputError, match="does not fit at"):
        original.twin(position=taken, object=0)
    alone = Scene(0, "sand", "sunny", (Placed("circle", "red", "small", (20.0, 20.0)),))
    assert alone.twin(position=(70.0, 60.0)).objects[0].center == (70.0, 60.0)


def test_twins_chain():
    original = pick(("shape",))
    twin = original.twin(place="brick").twin(mood="gloomy")
    assert (twin.place, twin.mood, twin.placed) == ("brick", "gloomy", original.placed)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "exactly one thing, but 0 were asked for"),
        ({"place": "sand", "mood": "sunny"}, r"2 were asked for \(place, mood\)"),
        ({"color": "blu", "object": 0}, "no color 'blu'. Nearest: blue"),
        ({"shape": "cirle", "object": 0}, "no noun 'cirle'. Nearest: circle"),
        ({"place": "gras"}, "no place 'gras'. Nearest: grass"),
        ({"color": "red", "object": 5}, "no object 5: it has 1, counted from 0"),
        ({"shape": "man", "object": 0}, "A circle is a shape and cannot become a person"),
        ({"gender": "man"}, "can change its gender"),
        ({"gender": "man", "object": 0}, "a circle, which has no gender"),
        ({"position": "left"}, "The circle is alone, so nothing lies left of anything"),
        ({"position": "nearby"}, "no side 'nearby'"),
    ],
)
def test_impossible_twins_say_why(changes, message):
    alone = Scene(0, "sand", "sunny", (Placed("circle", "red", "small", (20.0, 20.0)),))
    with pytest.raises(InputError, match=message):
        alone.twin(**changes)


def test_a_sign_keeps_its_colour():
    sign = Scene(0, "sand", "sunny", (Placed("tap", "blue", "big", (40.0, 40.0)),))
    with pytest.raises(InputError, match="keeps its colour"):
        sign.twin(color="red", object=0)
    assert sign.twin(shape="bolt").objects[0].color == "yellow"


def test_an_unknown_split_says_which_there_are():
    with pytest.raises(InputError, match=r"split='tset' must be 'test' or 'train'; nearest: 'test'"):
        scene(0, split="tset")


def test_bad_seeds_and_counts_say_why():
    with pytest.raises(InputError, match="seed=-1 must be from 0 to"):
        scene(-1)
    with pytest.raises(InputError, match="n=-2 must be from 0 to 1,000,000"):
        scenes(-2)
    with pytest.raises(InputError, match="at scale 0"):
        scene(0).render(0)


def test_save_writes_picture_and_truth(tmp_path):
    original = SCENES[2]
    picture, truth = original.save(tmp_path / "scene.png")
    assert (np.asarray(Image.open(picture)) == np.asarray(original.image)).all()
    assert json.loads(truth.read_text()) == original.truth()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["scene.json", "scene.png"]
    assert original.save(tmp_path / "bare")[0].name == "bare.png"


def test_save_refuses_what_it_cannot_write(tmp_path):
    with pytest.raises(InputError, match=r"not as '.jpg'"):
        SCENES[2].save(tmp_path / "scene.jpg")
    with pytest.raises(InputError, match="does not exist"):
        SCENES[2].save(tmp_path / "missing" / "scene.png")
    assert list(tmp_path.iterdir()) == []


def test_importing_the_lab_needs_neither_torch_nor_transformers():
    import subprocess
    import sys

    code = "import sys, mmlens.lab; mmlens.lab.scene(7).image; assert not {'torch', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
