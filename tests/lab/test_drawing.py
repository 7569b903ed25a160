"""The truth about pixels: masks cover what is drawn, boxes are tight, glyphs differ."""

import numpy as np
import pytest

from mmlens.lab import COLORS, MOODS, NOUNS, PLACES, Placed, scenes
from mmlens.lab.drawing.canvas import bounding_box, coverage, draw, ink_mask
from mmlens.lab.world import kind_of, plate_color

SCENES = scenes(40, seed=11)


def one(noun: str, *, size: str = "big", color: str = "red", center: tuple[float, float] = (48.0, 48.0)) -> Placed:
    color = plate_color(noun) if kind_of(noun) == "sign" else color
    return Placed(noun, color, size, center)


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: str(scene.seed))
def test_masks_cover_what_drawing_the_object_changes(scene):
    image = np.asarray(scene.image).astype(int)
    for index, thing in enumerate(scene.objects):
        others = scene.placed[:index] + scene.placed[index + 1 :]
        bare = draw(others, scene.place, scene.mood, scene._ground_seed).astype(int)
        changed = np.abs(image - bare).max(axis=2) > 0
        covered = coverage(scene.placed[index])
        assert not changed[covered == 0].any(), "drawing an object changed a pixel that it does not cover"
        # A pixel may keep its value where object and ground happen to have the same colour.
        assert changed[thing.mask].mean() > 0.97
        assert (covered[thing.mask] >= 0.5).all()
        assert (covered[~thing.mask] < 0.5).all()


@pytest.mark.parametrize("scene", SCENES[:10], ids=lambda scene: str(scene.seed))
def test_boxes_are_tight_and_inside(scene):
    for thing in scene.objects:
        left, top, right, bottom = thing.box
        assert 0 <= left < right <= 96
        assert 0 <= top < bottom <= 96
        assert thing.mask[top:bottom, left:right].sum() == thing.mask.sum()
        for edge in (thing.mask[top], thing.mask[bottom - 1], thing.mask[:, left], thing.mask[:, right - 1]):
            assert edge.any()


def test_no_pixel_belongs_to_two_objects():
    for scene in SCENES:
        assert np.sum([coverage(thing) > 0 for thing in scene.placed], axis=0).max() <= 1


def test_every_noun_looks_different_from_every_other():
    drawn = {noun: draw((one(noun),), "sand", "sunny", 0)[24:72, 24:72].astype(int) for noun in NOUNS}
    for noun, picture in drawn.items():
        for other, against in drawn.items():
            if noun < other:
                assert (np.abs(picture - against).max(axis=2) > 40).sum() > 40, (noun, other)


@pytest.mark.parametrize("noun", NOUNS)
def test_big_is_plainly_bigger_than_small(noun):
    assert ink_mask(one(noun)).sum() > 1.9 * ink_mask(one(noun, size="small")).sum()


@pytest.mark.parametrize("color", COLORS)
def test_most_of_a_square_has_its_colour(color):
    thing = one("square", color=color)
    inner = draw((thing,), "wood", "sunny", 0)[42:54, 42:54].reshape(-1, 3).mean(axis=0)
    # The light of the mood multiplies the colour; the nearest named colour must still be the right one.
    distances = {
        name: np.abs(inner - np.clip(np.array(rgb) * [1.05, 1.0, 0.88], 0, 255)).sum() for name, rgb in COLORS.items()
    }
    assert min(distances, key=distances.get) == color


def test_places_and_moods_differ_and_only_the_seed_changes_the_grain():
    pictures = [draw((), place, mood, 3).astype(float) for place in PLACES for mood in MOODS]
    for index, picture in enumerate(pictures):
        for other in pictures[:index]:
            assert np.abs(picture.mean(axis=(0, 1)) - other.mean(axis=(0, 1))).max() > 6
    again = draw((), "grass", "sunny", 3)
    assert (again == pictures[0]).all()
    assert (draw((), "grass", "sunny", 4) != again).any()


def test_an_enlarged_picture_shows_the_same_scene_with_sharper_edges():
    scene = SCENES[0]
    large = np.asarray(scene.render(4)).astype(float)
    assert large.shape == (384, 384, 3)
    shrunk = large.reshape(96, 4, 96, 4, 3).mean(axis=(1, 3))
    assert np.abs(shrunk - np.asarray(scene.image)).mean() < 12


def test_bounding_box_of_a_known_mask():
    shown = np.zeros((10, 10), dtype=bool)
    shown[2:5, 3:9] = True
    assert bounding_box(shown) == (3, 2, 9, 5)
