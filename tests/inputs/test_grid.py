"""Pictures that one raster stands for: several of several sizes, each row drawn pixel by pixel."""

# ruff: noqa: B023 - a drawing is compared before the loop goes on

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mmlens.core.errors import InputError
from mmlens.inputs.patch_geometry import Frame, Places, RowGrid, boxes_of, cells_of, owners_of, size_of
from mmlens.inputs.patch_geometry.convolved import convolved
from mmlens.inputs.patch_geometry.grid import (
    Raster,
    grid_places,
    mixed_rows,
    query_places,
    raster_places,
    vision_places,
)
from mmlens.inputs.patch_geometry.merging import merging_places, one_sequence_places, packed_merging_places
from mmlens.inputs.patch_geometry.staged import staged_places
from mmlens.inputs.patch_geometry.tile_raster import TileRaster
from tests.inputs.drawing import check, config, content, ids, positions_of

#: 8 x 12 pixels: 2 x 3 patches of 4 pixels. Two pictures in the first sample, one in the last.
PIXELS, SIDE = (8, 12), 4
SIZES = [[(16, 12), (8, 48)], [], [(2, 3)]]
OWNERS = [(0, 0), (0, 1), (2, 0)]


class Processor:
    """One that resizes a picture to what the tower receives."""

    do_resize, do_center_crop, do_pad = True, False, False


def batch_of(tokens: int, first: str = "1") -> dict[str, Any]:
    """Three pictures of so many tokens each."""
    lines = (first + "i" * tokens + "2" + "i" * tokens, "12", "12" + "i" * tokens + "3")
    return {"pixel_values": torch.zeros(3, 3, *PIXELS), "input_ids": ids(*lines)}


def patch(y: int, x: int) -> int:
    """The patch of a pixel, in raster order."""
    return y // SIDE * 3 + x // SIDE


@pytest.mark.parametrize("drops", [True, False])
@pytest.mark.parametrize("processor", [Processor(), None])
def test_patches_behind_class_rows(drops: bool, processor: Any) -> None:
    """Two class rows, which the language model receives too, or not."""
    tokens = 6 if drops else 8
    batch = batch_of(tokens)
    made = grid_places(class_rows=lambda config: 2, drops_class=lambda config: drops)
    places = made(config(patch_size=SIDE), batch, SIZES, processor)
    assert [(place.sample, place.image) for place in places] == OWNERS
    before = 0 if drops else 2
    for entry, place in enumerate(places):
        size = PIXELS if processor is None else SIZES[place.sample][place.image]
        assert (place.size, place.placeless) == (size, {})
        positions = positions_of(batch["input_ids"], place.sample)[tokens * place.image :]
        for part, index, row_of in (
            ("vision", entry, lambda n: n + 2),
            ("projector", entry, lambda n: n + before),
            ("language", place.sample, lambda n: positions[n + before]),
        ):
            check(
                place.views(part)[0],  # type: ignore[arg-type]
                (2, 3),
                lambda y, x: (index, row_of(patch(y, x)), y // SIDE, x // SIDE),
                PIXELS,
                size,
            )


def test_squares_that_are_merged_behind_the_tower() -> None:
    batch = {**batch_of(2), "pixel_values": torch.zeros(3, 3, 8, 16)}
    places = merging_places(merge=lambda config: 2)(config(patch_size=SIDE), batch, SIZES, Processor())
    for entry, place in enumerate(places):
        size = SIZES[place.sample][place.image]
        positions = positions_of(batch["input_ids"], place.sample)[2 * place.image :]
        check(
            place.views("vision")[0], (2, 4), lambda y, x: (entry, y // 4 * 4 + x // 4, y // 4, x // 4), (8, 16), size
        )
        check(place.views("projector")[0], (1, 2), lambda y, x: (entry, x // 8, 0, x // 8), (8, 16), size)
        check(
            place.views("language")[0],
            (1, 2),
            lambda y, x: (place.sample, positions[x // 8], 0, x // 8),
            (8, 16),
            size,
        )


@pytest.mark.parametrize("sizes", [SIZES, None])
@pytest.mark.parametrize("entry", [0, None])
def test_pictures_of_several_sizes_in_one_sequence(sizes: Any, entry: int | None) -> None:
    """Targets of 2 x 3, 1 x 2 and 3 x 1 squares of 2 x 2 patches."""
    targets, counts = [(16, 24), (8, 16), (24, 8)], [6, 2, 3]
    batch = {"image_sizes": torch.tensor(targets), "input_ids": ids("1iiiiii1ii", "1", "111iii")}
    made = packed_merging_places if entry is None else one_sequence_places(merge=lambda config: 2, entry=0)
    settings = config(patch_size=SIDE)
    settings.spatial_merge_size = 2
    places = made(settings, batch, sizes, None)
    assert [(place.sample, place.image) for place in places] == OWNERS
    first = merged = 0
    for place, target, count in zip(places, targets, counts, strict=True):
        size = target if sizes is None else SIZES[place.sample][place.image]
        assert (place.size, place.placeless) == (size, {})
        columns = target[1] // 8
        positions = positions_of(batch["input_ids"], place.sample)[6 * place.image :]
        shape = (target[0] // 8, columns)
        for part, cells, side, row_of in (
            ("vision", (2 * shape[0], 2 * columns), 4, lambda n: (0, first + n)),
            ("projector", shape, 8, lambda n: (entry, merged + n)),
            ("language", shape, 8, lambda n: (place.sample, positions[n])),
        ):
            check(
                place.views(part)[0],  # type: ignore[arg-type]
                cells,
                lambda y, x: (*row_of(y // side * cells[1] + x // side), y // side, x // side),
                target,
                size,
            )
        first, merged = first + 4 * count, merged + count


def test_learned_queries_have_no_place() -> None:
    """The tower's patches behind its class row have one; the two queries have none, and say so."""
    settings = config(patch_size=SIDE)
    settings.num_query_tokens = 2
    places = query_places(settings, batch_of(2), SIZES, Processor())
    assert [(place.sample, place.image, place.size) for place in places] == [
        (0, 0, (16, 12)),
        (0, 1, (8, 48)),
        (2, 0, (2, 3)),
    ]
    for entry, place in enumerate(places):
        check(
            place.views("vision")[0], (2, 3), lambda y, x: (entry, 1 + patch(y, x), y // 4, x // 4), PIXELS, place.size
        )
        assert place.placeless == mixed_rows("2 queries of the Q-Former")
        assert set(place.grids) == {"vision"}
    assert set(mixed_rows("2 queries")) == {"projector", "language"}


def test_entries_may_be_named_and_the_target_too() -> None:
    """Entry 1 is the second sample's, entry 0 the first's; the tower receives half of the pixels."""
    batch = {"pixel_values": torch.zeros(2, 3, *PIXELS), "input_ids": ids("1", "1")}
    entries, sizes = [(1, 0, 0), (0, 1, 0)], [[(16, 24)], [(8, 12)]]
    why = {"projector": "a", "language": "b"}
    places = vision_places(config(patch_size=SIDE), batch, sizes, Processor(), why, entries=entries)  # type: ignore[arg-type]
    assert [(place.sample, place.image, place.placeless) for place in places] == [(0, 0, why), (1, 0, why)]
    assert [place.views("vision")[0].index for place in places] == [1, 0]
    rasters: Any = {"vision": Raster.of((1, 1), SIDE), "projector": Raster.of((2, 1), 2, first=3)}
    places = raster_places(config(), batch, sizes, Processor(), rasters, entries=entries, target=(4, 4))
    assert [place.views("vision")[0].boxes.tolist() for place in places] == [[[0, 0, 24, 16]], [[0, 0, 12, 8]]]
    assert places[0].views("projector")[0].rows.tolist() == [3, 4]
    assert [place.views("projector")[0].index for place in places] == [1, 0]
    assert places[0].placeless == {}


def test_stages_of_several_sizes() -> None:
    squares = torch.tensor([[0, 0, 6, 4], [6, 0, 12, 4], [0, 4, 6, 8], [6, 4, 12, 8]])
    places = staged_places(
        config(), batch_of(4), SIZES, Processor(), shape=(2, 2), squares=squares, stand_for="squares of 6 pixels"
    )
    for entry, place in enumerate(places):
        size = SIZES[place.sample][place.image]
        check(
            place.views("projector")[0],
            (2, 2),
            lambda y, x: (entry, y // 4 * 2 + x // 6, y // 4, x // 6),
            PIXELS,
            size,
        )
        assert set(place.grids) == {"projector", "language"}
        assert "'language', whose rows stand for squares of 6 pixels" in place.placeless["vision"]


@pytest.mark.parametrize("shape", [(9, 5), (4, 13), (8, 8)])
def test_rows_of_convolutions_stand_for_all_patches_that_reach_them(shape: tuple[int, int]) -> None:
    """Through the neck's 3 x 3 convolution and two of stride 2: what a row's value depends on is drawn by gradients."""
    layers = torch.nn.Sequential(
        torch.nn.Conv2d(1, 1, 3, padding=1, bias=False),
        torch.nn.Conv2d(1, 1, 3, stride=2, padding=1, bias=False),
        torch.nn.Conv2d(1, 1, 3, stride=2, padding=1, bias=False),
    )
    for layer in layers:
        torch.nn.init.ones_(layer.weight)
    x = torch.zeros(1, 1, *shape, requires_grad=True)
    y = layers(x)[0, 0]
    raster = convolved(shape, 16)
    assert raster.shape == tuple(y.shape)
    assert raster.rows.tolist() == list(range(y.numel()))
    for number, (row, column) in enumerate(raster.cells.tolist()):
        assert number == row * y.shape[1] + column
        (gradient,) = torch.autograd.grad(y[row, column], x, retain_graph=True)
        down, across = gradient[0, 0].nonzero().T
        box = [across.min(), down.min(), across.max() + 1, down.max() + 1]
        assert raster.boxes[number].tolist() == [16 * int(edge) for edge in box]


def test_tiles_that_are_no_multiple_of_a_cell() -> None:
    """Two by three tiles of 7 x 9 pixels: two by three cells of three pixels (and 7 = 2 * 3 + 1)."""
    raster = TileRaster((2, 3), (7, 9), 3)
    assert (raster.within, raster.shape, raster.size) == ((2, 3), (4, 9), (14, 27))
    for number, (down, across) in enumerate(raster.cells.tolist()):
        assert number == 9 * down + across
        top, left = down // 2 * 7 + down % 2 * 3, across // 3 * 9 + across % 3 * 3
        assert raster.boxes[number].tolist() == [left, top, left + 3, top + 3]
        assert raster.numbers[number] == down // 2 * 3 + across // 3
        assert raster.rows[number] == down % 2 * 3 + across % 3


def test_image_tokens_belong_to_pictures_in_the_order_of_the_samples() -> None:
    tensors = {"input_ids": ids("i1ii", "0000", "iiii")}
    owners = owners_of(tensors, 9, [1, 2, 4])
    assert [(sample, image, positions.tolist()) for sample, image, positions in owners] == [
        (0, 0, [0]),
        (0, 1, [2, 3]),
        (2, 0, [0, 1, 2, 3]),
    ]
    left_over = r"Sample 2 has 1 image tokens left over after 1 pictures; the pictures given need \[1, 2, 3\] tokens"
    with pytest.raises(InputError, match=left_over):
        owners_of(tensors, 9, [1, 2, 3])
    with pytest.raises(InputError, match="Sample 0 has 2 image tokens left over after 1 pictures"):
        owners_of(tensors, 9, [1, 3])
    with pytest.raises(InputError, match="4 pictures were given for 3 placeholders"):
        owners_of(tensors, 9, [1, 2, 4, 4])


def test_cells_boxes_and_views() -> None:
    assert cells_of(2, 3).tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]
    assert boxes_of(torch.tensor([[1, 2]]), 5).tolist() == [[10, 5, 15, 10]]
    assert (size_of(None, 1, 0), size_of([[(1, 2)], [(3, 4), (5, 6)]], 1, 1)) == (None, (5, 6))
    grid = RowGrid(0, torch.zeros(1), torch.zeros(1, 4), torch.zeros(1, 2), (1, 1))
    places = Places(0, 0, (1, 1), {"vision": grid, "projector": (grid, grid)}, {})
    assert [len(places.views(part)) for part in ("vision", "projector", "language")] == [1, 2, 0]  # type: ignore[arg-type]
    assert (places.lengths, places.frames) == ({}, ())


def test_a_frame_may_come_from_elsewhere() -> None:
    calls = []

    def frame(processor: Any, size: Any, target: Any) -> Frame:
        calls.append((processor, size, target))
        return Frame(1, 1, (2.0, 2.0), (1.0, 3.0))

    made = grid_places(class_rows=lambda config: 0, drops_class=lambda config: False, frame=frame)
    processor = SimpleNamespace()
    places = made(config(patch_size=SIDE), batch_of(6), SIZES, processor)
    assert calls == [(processor, SIZES[s][i], PIXELS) for s, i in OWNERS]
    # (pixel + offset) / scale, left and right by 3, top and bottom by 1
    assert next(iter(content(places[0].views("vision")[0]).values())) == [1.5, 0.5, 3.5, 2.5]
