"""Pictures cut into tiles of a canvas by the image processor's rule: several in a sample, each row drawn pixel by pixel."""

# ruff: noqa: B023 - a drawing is compared before the loop goes on

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mmlens.core.errors import InputError
from mmlens.inputs.patch_geometry.tile import (
    TileTower,
    canvas_places,
    canvas_tokens,
    tile_entries,
    unknown_places,
    view_grids,
)
from tests.inputs.drawing import Owner, check, config, ids, positions_of

#: Tiles of 18 x 27 pixels: 4 x 6 patches of 4 pixels behind two class rows, 2 x 3 squares of 2 x 2; six tokens a tile.
TILE, SIDE, CLASS = (18, 27), 4, 2
TOKENS = 6
#: A picture of 3 x 2 tiles and its whole, one of one tile; then no picture; then one of 1 x 2 and its whole.
SIZES = [[(60, 55), (9, 9)], [], [(20, 80)]]
CUTS = {(0, 0): (3, 2), (0, 1): (1, 1), (2, 0): (1, 2)}
IDS = ids("1" + "i" * 7 * TOKENS + "x" + "i" * TOKENS, "12", "i" * 3 * TOKENS + "1")


class Processor:
    """One whose module has a rule."""

    min_patches, max_patches = 1, 6


def get_optimal_tiled_canvas(size: tuple[int, int], tile: tuple[int, int], fewest: int, most: int) -> tuple[int, int]:
    """(columns, rows) of tiles for a picture: as many whole ones as it has."""
    assert (tile, fewest, most) == (TILE, 1, 6)
    return max(size[1] // tile[1], 1), max(size[0] // tile[0], 1)


def tensors(tiles: int, tokens: torch.Tensor = IDS) -> dict[str, Any]:
    """A batch."""
    return {"pixel_values": torch.zeros(tiles, 3, *TILE), "input_ids": tokens}


@pytest.mark.parametrize("side", [SIDE, (SIDE, SIDE)])
def test_every_row_of_a_canvas_stands_for_its_pixels(side: Any) -> None:
    made = canvas_places(merge=lambda config: 2, class_rows=CLASS)
    places = made(config(patch_size=side), tensors(11), SIZES, Processor())
    assert [(place.sample, place.image) for place in places] == list(CUTS)
    first = 0
    for place, ((sample, image), (rows, columns)) in zip(places, CUTS.items(), strict=True):
        size, several = SIZES[sample][image], rows * columns > 1
        assert (place.size, place.placeless, place.frames) == (size, {}, ())
        positions = positions_of(IDS, sample)[7 * TOKENS if image else 0 :]

        def row_of(part: str, entry: int, y: int, x: int) -> Owner | None:
            side = SIDE if part == "vision" else 2 * SIDE
            down, across = TILE[0] // side, TILE[1] // side
            row, column = y % TILE[0] // side, x % TILE[1] // side
            if row >= down or column >= across:
                return None
            number = entry + y // TILE[0] * columns + x // TILE[1]
            where = (y // TILE[0] * down + row, x // TILE[1] * across + column)
            inner = row * across + column
            if part == "language":
                return sample, positions[number * TOKENS + inner], *where
            return first + number, inner + (CLASS if part == "vision" else 0), *where

        for part, shape in (("vision", (4, 6)), ("projector", (2, 3)), ("language", (2, 3))):
            views = place.views(part)  # type: ignore[arg-type]
            assert len(views) == 1 + several
            # the whole lies behind the tiles
            check(views[0], shape, lambda y, x: row_of(part, rows * columns if several else 0, y, x), TILE, size)
            assert isinstance(views[0].index, int)
            assert isinstance(views[-1].index, int) == (part == "language" or not several)
            if several:
                canvas = (rows * TILE[0], columns * TILE[1])
                shape = (rows * shape[0], columns * shape[1])
                check(views[1], shape, lambda y, x: row_of(part, 0, y, x), canvas, size)
        first += rows * columns + several


def test_pictures_are_whole_where_no_rule_cuts_them() -> None:
    """Without a processor, with one that has no rule, and with one that is told to cut nothing."""
    made = canvas_places(merge=lambda config: 2)
    batch = tensors(2, ids("i" * 2 * TOKENS))
    whole = Processor()
    whole.max_patches = 1
    for processor in (None, SimpleNamespace(min_patches=1, max_patches=6), whole):
        one, two = made(config(patch_size=SIDE), batch, [[(60, 55), (20, 80)]], processor)
        assert [len(one.views("vision")), len(two.views("vision"))] == [1, 1]
        assert [one.views("vision")[0].index, two.views("vision")[0].index] == [0, 1]
    # and where the tokens say that they were not cut
    one, two = made(config(patch_size=SIDE), batch, [[(60, 55), (60, 55)]], Processor())
    assert [one.views("language")[0].rows.tolist(), two.views("language")[0].rows.tolist()] == [
        list(range(6)),
        list(range(6, 12)),
    ]


def test_two_tiles_at_most_still_cut() -> None:
    processor = Processor()
    processor.max_patches = 2
    with pytest.raises(AssertionError):  # the rule is asked
        canvas_places(merge=lambda config: 2)(
            config(patch_size=SIDE), tensors(1, ids("i" * TOKENS)), [[(9, 9)]], processor
        )


def test_tokens_and_pictures_that_do_not_fit_are_refused() -> None:
    made = canvas_places(merge=lambda config: 2)
    with pytest.raises(InputError, match=r"Sample 1 has 8 image tokens, which are not those of whole tiles \(6 each\)"):
        made(config(patch_size=SIDE), tensors(2, ids("i" * 6, "i" * 8)), [[(9, 9)], [(9, 9)]], Processor())
    expected = (
        r"image tokens of sample 1 are those of 4 tiles, but its pictures, of \(height, width\) \(60, 55\), \(9, 9\), are "
        r"cut into 7 \+ 1; pass"
    )
    with pytest.raises(InputError, match=expected):
        made(config(patch_size=SIDE), tensors(5, ids("i" * 6, "i" * 24)), [[(9, 9)], [(60, 55), (9, 9)]], Processor())


def test_uncut_pictures_of_other_tokens_are_refused() -> None:
    made = canvas_places(merge=lambda config: 2)
    with pytest.raises(InputError, match=r"those of 3 tiles, but its pictures, .* are cut into 1 \+ 1; pass"):
        made(config(patch_size=SIDE), tensors(3, ids("i" * 18)), [[(9, 9), (60, 55)]], None)


def test_pictures_of_unknown_size_say_how_many_tiles_they_have() -> None:
    made = canvas_places(merge=lambda config: 2)
    places = made(config(patch_size=SIDE), tensors(11), None, Processor())
    assert [(place.sample, place.image, place.size) for place in places] == [(0, 0, (0, 0)), (2, 0, (0, 0))]
    assert [place.views("vision") for place in places] == [(), ()]
    for place, count in zip(places, (8, 3), strict=True):
        for part in ("vision", "projector", "language"):
            assert f"how the {count} tiles of sample {place.sample} lie" in place.placeless[part]  # type: ignore[index]
    assert unknown_places(1, 2).image == 0
    assert unknown_places(1, 2, 3).image == 3


def test_a_picture_takes_its_tiles_and_its_whole() -> None:
    assert [tile_entries(cut) for cut in ((1, 1), (1, 2), (2, 1), (3, 2), (1, 3), (3, 3))] == [1, 3, 3, 7, 4, 10]
    expand = canvas_tokens(merge=lambda config: 2)
    batch = {**tensors(11), "num_patches": torch.tensor([7, 1, 3])}
    assert expand(config(patch_size=SIDE), batch) == [42, 6, 18]


def test_a_view_may_start_behind_other_entries() -> None:
    tower = TileTower((8, 8), 4, 1, 1)
    grids = view_grids(tower, (8, 16), (1, 2), 3, 5, torch.arange(100, 120), 2)
    assert grids["vision"].index.tolist() == [5, 5, 6, 6, 5, 5, 6, 6]  # type: ignore[union-attr]
    assert grids["vision"].rows.tolist() == [1, 2, 1, 2, 3, 4, 3, 4]
    assert grids["language"].index == 5
    assert grids["language"].rows.tolist() == [108, 109, 112, 113, 110, 111, 114, 115]
