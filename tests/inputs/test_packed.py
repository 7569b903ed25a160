"""Packed towers: pictures of several sizes in several samples, each row drawn pixel by pixel."""

# ruff: noqa: B023 - a drawing is compared before the loop goes on

from collections.abc import Callable
from typing import Any

import pytest
import torch

from mmlens.core.errors import InputError
from mmlens.inputs.patch_geometry import Frame
from mmlens.inputs.patch_geometry.packed import by_square, by_window, in_raster, packed_places, packed_video_places
from tests.inputs.drawing import VIDEO, check, config, ids, positions_of

#: Squares of 2 x 2 patches of 4 pixels; windows of 2 x 2 squares.
CONFIG = config(patch_size=4, spatial_merge_size=2, window_size=16, temporal_patch_size=2)
#: (rows, columns) of squares of every picture, and its size in pixels; two pictures in the first sample, one in the second.
SHAPES = [(3, 5), (1, 2), (4, 3)]
SIZES = [[(48, 20), (8, 16)], [(100, 36)]]
PATCHES = [(6, 10), (2, 4), (8, 6)]
OWNERS = [(0, 0), (0, 1), (1, 0)]
TOKENS = ids("1" + "i" * 15 + "2" + "i" * 2 + "3", "00007" + "i" * 12 + "12")
GRIDS = {"image_grid_thw": torch.tensor([[1, *patches] for patches in PATCHES]), "input_ids": TOKENS}


def window_order(rows: int, columns: int) -> list[tuple[int, int]]:
    """Squares window by window, each of two by two squares, cut off at the edges."""
    return [
        (row, column)
        for top in range(0, rows, 2)
        for left in range(0, columns, 2)
        for row in range(top, min(top + 2, rows))
        for column in range(left, min(left + 2, columns))
    ]


def raster_order(rows: int, columns: int) -> list[tuple[int, int]]:
    """Squares row by row."""
    return [(row, column) for row in range(rows) for column in range(columns)]


def tower_row(order: list[tuple[int, int]], y: int, x: int) -> int:
    """The row of a pixel where squares follow each other in an order, each with its four patches."""
    return 4 * order.index((y // 8, x // 8)) + 2 * (y % 8 // 4) + x % 8 // 4


@pytest.mark.parametrize(
    ("order", "squares", "row_of"),
    [
        (by_square, raster_order, tower_row),
        (by_window, window_order, tower_row),
        (in_raster, raster_order, None),
    ],
)
@pytest.mark.parametrize("sizes", [SIZES, None])
def test_every_row_of_a_packed_batch_stands_for_its_pixels(
    order: Any, squares: Callable[[int, int], list[tuple[int, int]]], row_of: Any, sizes: Any
) -> None:
    places = packed_places(order=order)(CONFIG, GRIDS, sizes, None)
    assert [(place.sample, place.image) for place in places] == OWNERS
    first, merged = 0, 0
    for place, shape, patches in zip(places, SHAPES, PATCHES, strict=True):
        target = (shape[0] * 8, shape[1] * 8)
        size = target if sizes is None else SIZES[place.sample][place.image]
        in_order = squares(*shape)
        columns, positions = patches[1], positions_of(TOKENS, place.sample)[15 if place.image else 0 :]
        assert place.size == size
        assert place.placeless == {}

        def tower(y: int, x: int) -> tuple[None, int, int, int]:
            row = y // 4 * columns + x // 4 if row_of is None else row_of(in_order, y, x)
            return None, first + row, y // 4, x // 4

        check(place.grids["vision"], patches, tower, target, size)  # type: ignore[arg-type]
        check(
            place.grids["projector"],  # type: ignore[arg-type]
            shape,
            lambda y, x: (None, merged + in_order.index((y // 8, x // 8)), y // 8, x // 8),
            target,
            size,
        )
        check(
            place.grids["language"],  # type: ignore[arg-type]
            shape,
            lambda y, x: (place.sample, positions[y // 8 * shape[1] + x // 8], y // 8, x // 8),
            target,
            size,
        )
        first, merged = first + patches[0] * patches[1], merged + shape[0] * shape[1]
        assert place.lengths == {"projector": merged}


def test_ends_of_lines_have_no_place_and_pictures_merge_as_they_say() -> None:
    """The first picture has squares of one patch, the second of two by two; each line of squares ends with a row of its own."""
    tokens = ids("i" * 3 * 3 + "1" + "i" * 2 * 3)
    batch = {"image_grid_thw": torch.tensor([[1, 3, 2], [1, 4, 4]]), "input_ids": tokens}

    def among(shape: tuple[int, int]) -> tuple[torch.Tensor, int]:
        rows, columns = shape
        lines = torch.arange(rows * (columns + 1)).view(rows, columns + 1)
        return lines[:, :-1].flatten(), lines.numel()

    made = packed_places(
        merges=lambda config, tensors: [1, 2],
        among=among,
        frame_of=lambda processor, size, target: Frame(*size, (2.0, 2.0), (1.0, 0.0)),
    )
    one, two = made(CONFIG, batch, [[(9, 9), (8, 8)]], None)
    assert [one.size, two.size] == [(9, 9), (8, 8)]
    assert [grid.rows.tolist() for grid in two.views("vision")] == [list(range(6, 22))]
    assert one.views("projector")[0].rows.tolist() == [0, 1, 3, 4, 6, 7]
    assert two.views("projector")[0].rows.tolist() == [9, 10, 12, 13]
    assert one.views("language")[0].rows.tolist() == [0, 1, 3, 4, 6, 7]
    assert two.views("language")[0].rows.tolist() == [10, 11, 13, 14]
    assert [one.lengths, two.lengths] == [{"projector": 9}, {"projector": 15}]
    # a square of the second is 8 pixels of the tower, which are 4 of the picture behind half a pixel
    assert two.views("projector")[0].boxes.tolist()[3] == [4, 4.5, 8, 8.5]
    assert one.views("projector")[0].boxes.tolist()[3] == [2, 2.5, 4, 4.5]


def test_a_grid_of_several_time_steps_is_no_picture() -> None:
    with pytest.raises(InputError, match=r"image_grid_thw holds videos \(t > 1\): \[\[1, 6, 10\], \[2, 2, 4\]\]"):
        packed_places()(CONFIG, {**GRIDS, "image_grid_thw": torch.tensor([[1, 6, 10], [2, 2, 4]])}, None, None)


@pytest.mark.parametrize(("order", "squares"), [(by_square, raster_order), (by_window, window_order)])
@pytest.mark.parametrize("sizes", [[[(3, 48, 20)], [(2, 32, 8), (5, 24, 24)]], None])
def test_every_row_of_packed_videos_stands_for_its_frames(
    order: Any, squares: Callable[[int, int], list[tuple[int, int]]], sizes: Any
) -> None:
    """Two frames a group: three frames are two groups, of which the second repeats the last frame."""
    shapes = [(3, 2), (2, 1), (1, 3)]
    groups, owners = [2, 1, 3], [(0, 0), (1, 0), (1, 1)]
    tokens = ids("1" + "v" * 12 + "2000", "v" * 2 + "12" + "v" * 9 + "3777")
    grid = torch.tensor([[t, 2 * rows, 2 * columns] for t, (rows, columns) in zip(groups, shapes, strict=True)])
    places = packed_video_places(order=order)(CONFIG, {"video_grid_thw": grid, "input_ids": tokens}, sizes, None)
    first = merged = number = 0
    for (sample, video), (rows, columns), count in zip(owners, shapes, groups, strict=True):
        target, in_order = (rows * 8, columns * 8), squares(rows, columns)
        frames, *size = (2 * count, *target) if sizes is None else sizes[sample][video]
        before = 2 if (sample, video) == (1, 1) else 0
        for group in range(count):
            place = places[number]
            assert (place.sample, place.image, place.size) == (sample, video, tuple(size))
            assert place.frames == tuple(range(2 * group, min(2 * group + 2, frames)))
            positions = positions_of(tokens, sample, VIDEO)[before + group * len(in_order) :]
            owners_of_rows: dict[str, Any] = {
                "vision": lambda y, x: (None, first + tower_row(in_order, y, x), y // 4, x // 4),
                "projector": lambda y, x: (None, merged + in_order.index((y // 8, x // 8)), y // 8, x // 8),
                "language": lambda y, x: (sample, positions[y // 8 * columns + x // 8], y // 8, x // 8),
            }
            for part, owner in owners_of_rows.items():
                shape = (2 * rows, 2 * columns) if part == "vision" else (rows, columns)
                check(place.grids[part], shape, owner, target, tuple(size))  # type: ignore[arg-type, index]
            first, merged, number = first + 4 * len(in_order), merged + len(in_order), number + 1
    assert number == len(places)
