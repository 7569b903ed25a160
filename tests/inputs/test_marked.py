"""Pictures whose text says how they are cut into tiles: several of several sizes, each row drawn pixel by pixel."""

# ruff: noqa: B023 - a drawing is compared before the loop goes on

from typing import Any

import pytest

from mmlens.core.errors import InputError
from mmlens.inputs.patch_geometry import Frame
from mmlens.inputs.patch_geometry.marked import _Tower, marked_places
from tests.inputs.drawing import BEGIN, END, IMAGE, Owner, check, config, ids

#: Tiles of 18 x 13 pixels: 4 x 3 patches of 4 pixels, of which 2 x 1 squares of 2 x 2 are whole.
HEIGHT, WIDTH, SIDE, MERGE = 18, 13, 4, 2
#: A picture of 2 x 3 tiles, one of a single tile, and one of 1 x 2; 1 and 2 are text, 3 ends a row of tiles and 4 a tile.
TOKENS = ids(
    "<" + "ii4ii4ii3" * 2 + "ii" + ">1<ii>",
    "1<2" + "ii4ii" + "ii" + ">",
)
CUTS = {(0, 0): (2, 3), (0, 1): (1, 1), (1, 0): (1, 2)}
SIZES = [[(27, 78), (36, 26)], [(9, 52)]]
SQUARES = (2, 1)


def cut(config: Any, between: list[int]) -> tuple[int, int]:
    """(rows, columns) of tiles, by what stands between them."""
    rows = between.count(3) or 1
    return rows, (between.count(4) + between.count(3)) // rows if between.count(3) else between.count(4) + 1


class Pixels:
    """Nothing but a shape."""

    def __init__(self, entries: int):
        self.shape = (entries, 3, HEIGHT, WIDTH)

    def __len__(self) -> int:
        return self.shape[0]


def made(whole_first: bool, **options: Any) -> Any:
    """Places of such pictures."""
    return marked_places(
        marks=lambda config: (BEGIN, END),
        tiles=cut,
        merge=lambda config: MERGE,
        whole_first=whole_first,
        **options,
    )


def cell_of(y: int, x: int, side: int) -> tuple[int, int, int, int] | None:
    """Tile row and column of a pixel, and the row and column of its cell in the tile; None for what lies in no whole cell."""
    row, column = y % HEIGHT // side, x % WIDTH // side
    inside = row < HEIGHT // side and column < WIDTH // side
    return (y // HEIGHT, x // WIDTH, row, column) if inside else None


@pytest.mark.parametrize("whole_first", [True, False])
@pytest.mark.parametrize("sizes", [SIZES, None])
def test_every_row_of_tiles_stands_for_its_pixels(whole_first: bool, sizes: Any) -> None:
    places = made(whole_first, extra_rows=5)(
        config(patch_size=SIDE), {"pixel_values": Pixels(11), "input_ids": TOKENS}, sizes, None
    )
    assert [(place.sample, place.image) for place in places] == list(CUTS)
    first = 0
    for place, (sample, image) in zip(places, CUTS, strict=True):
        rows, columns = CUTS[sample, image]
        canvas = (rows * HEIGHT, columns * WIDTH)
        size = canvas if sizes is None else SIZES[sample][image]
        assert (place.size, place.placeless, place.lengths) == (size, {}, {"vision": 12 + 5})
        tiles = rows * columns
        several = tiles > 1
        start = 1 if whole_first and several else 0
        whole = 0 if whole_first else tiles
        text = TOKENS[sample].tolist()
        begin = [position for position, token in enumerate(text) if token == BEGIN][image]
        end = text.index(END, begin)
        positions = [position for position in range(begin, end) if text[position] == IMAGE]

        def row_of(part: str, entry: int, y: int, x: int, base: int) -> Owner | None:
            side = SIDE if part == "vision" else SIDE * MERGE
            cell = cell_of(y, x, side)
            if cell is None:
                return None
            down, across = (HEIGHT // side, WIDTH // side)
            number = entry + cell[0] * columns + cell[1]
            row = cell[2] * across + cell[3]
            where = (cell[0] * down + cell[2], cell[1] * across + cell[3])
            if part == "language":
                return sample, positions[number * 2 + row], *where
            return base + number, row, *where

        for part, shape in (("vision", (4, 3)), ("projector", SQUARES), ("language", SQUARES)):
            views = place.views(part)  # type: ignore[arg-type]
            assert len(views) == 1 + several
            check(
                views[-1],
                (rows * shape[0], columns * shape[1]),
                lambda y, x: row_of(part, start, y, x, first),
                canvas,
                size,
            )
            # an entry's number, or one for each row where the rows lie in several
            assert isinstance(views[0].index, int)
            assert isinstance(views[-1].index, int) == (part == "language" or not several)
            if several:
                check(views[0], shape, lambda y, x: row_of(part, whole, y, x, first), (HEIGHT, WIDTH), size)
        first += tiles + several
    assert first == 11


def test_a_canvas_is_laid_as_the_fit_says_and_its_whole_is_stretched() -> None:
    half = made(
        True, fit=lambda processor, size, canvas: Frame(*size, (canvas[0] / size[0] / 2, canvas[1] / size[1] / 2))
    )
    tensors = {"pixel_values": Pixels(11), "input_ids": TOKENS}
    whole, canvas = half(config(patch_size=SIDE), tensors, SIZES, None)[2].views("projector")
    assert whole.boxes[0].tolist() == [0, 0, 32, 4]
    assert canvas.boxes[0].tolist() == [0, 0, 32, 8]


@pytest.mark.parametrize(("entries", "count"), [(10, 10), (12, 12)])
def test_pictures_of_other_tiles_than_the_text_marks_are_refused(entries: int, count: int) -> None:
    with pytest.raises(InputError, match=f"marks pictures of 11 tiles, but {count} were given"):
        made(True)(config(patch_size=SIDE), {"pixel_values": Pixels(entries), "input_ids": TOKENS}, None, None)


def test_a_picture_of_more_or_fewer_tokens_than_its_tiles_is_refused() -> None:
    for tokens, count in (("<i4ii>", 3), ("<ii4iii>", 5)):
        batch = {"pixel_values": Pixels(3), "input_ids": ids("1<ii>", "1" + tokens)}
        expected = f"Picture 0 of sample 1 is cut into 1 x 2 tiles, which take 6 image tokens, but the text has {count}"
        with pytest.raises(InputError, match=expected):
            made(True)(config(patch_size=SIDE), batch, None, None)


def test_tiles_that_are_not_square_have_rows_times_columns_of_tokens() -> None:
    tower = _Tower((60, 20), 5, 2)
    assert (tower.patches, tower.blocks, tower.tokens) == ((12, 4), (6, 2), 12)
