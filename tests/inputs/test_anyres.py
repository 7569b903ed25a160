"""A squeezed picture and a canvas of tiles: what is cut off, interpolated and padded is what Hugging Face's functions do."""

# ruff: noqa: B023 - a drawing is compared before the loop goes on

import math
from typing import Any

import numpy as np
import pytest
import torch
from transformers.image_processing_utils import get_patch_output_size
from transformers.image_utils import ChannelDimension
from transformers.models.llava_next.modeling_llava_next import unpad_image

from mmlens.core.errors import InputError
from mmlens.inputs.patch_geometry.anyres import anyres_places, anyres_tokens, interpolated_from
from tests.inputs.drawing import Owner, check, config, content, ids, positions_of

#: Tiles of 14 pixels: 3 x 3 patches of 4 pixels from their own corner on, behind a class row.
TILE, SIDE, CELLS, CLASS = 14, 4, 3, 1
SIZES = [[(50, 20), (9, 40)], [(30, 33), (11, 15)]]
#: Of 2 x 1, 1 x 3, 2 x 2 and 1 x 2 tiles; or of 2 x 2 alone, most of which may be bars.
CANVASES = [(28, 14), (14, 42), (28, 28), (14, 28)]
LONG = [[(10, 35), (35, 10)], [(20, 30), (30, 10)]]


def model_config(canvases: Any = ((14, 14), *CANVASES)) -> Any:
    """A configuration."""
    result = config(image_size=TILE, patch_size=SIDE)
    result.image_grid_pinpoints = [list(canvas) for canvas in canvases]
    return result


def tokens_of(
    size: tuple[int, int], canvas: tuple[int, int], limit: int | None
) -> tuple[torch.Tensor, tuple[int, int]]:
    """Weights `[row column cell_row cell_column]` of a canvas's cells in each token, by what the model does to a map of them."""
    rows, columns = canvas[0] // TILE * CELLS, canvas[1] // TILE * CELLS
    weights = unpad_image(torch.eye(rows * columns).view(-1, rows, columns), size)
    if limit is not None:
        _, height, width = weights.shape
        ratio = math.sqrt(height * width / (limit * CELLS**2))
        if ratio > 1.1:
            shape = [int(height // ratio), int(width // ratio)]
            weights = torch.nn.functional.interpolate(weights[None], shape, mode="bilinear")[0]
    return weights.view(rows, columns, *weights.shape[1:]).permute(2, 3, 0, 1), (rows, columns)


def start(cell: int) -> int:
    """The first pixel of a row or column of cells on the canvas: every tile begins anew."""
    return cell // CELLS * TILE + cell % CELLS * SIDE


@pytest.mark.parametrize(
    ("samples", "canvases", "limit"),
    [*((SIZES, CANVASES, limit) for limit in (None, 1, 2, 4)), (LONG, [(28, 28)] * 4, None)],
)
def test_every_row_of_both_views_stands_for_its_pixels(samples: Any, canvases: Any, limit: int | None) -> None:
    sizes = [size for sample in samples for size in sample]
    settings = model_config(canvases)
    weights = [tokens_of(size, canvas, limit) for size, canvas in zip(sizes, canvases, strict=True)]
    # the whole, then the canvas, each row of which ends with a newline
    counts = [9 + w.shape[0] * (w.shape[1] + 1) for w, _ in weights]
    tokens = ids("1" + "i" * counts[0] + "2" + "i" * counts[1], "i" * counts[2] + "3" + "i" * counts[3])
    tensors = {"input_ids": tokens, "image_sizes": torch.tensor(sizes)}
    limits = None if limit is None else lambda config: limit
    assert anyres_tokens(limit=limits)(settings, tensors) == counts
    places = anyres_places(class_rows=lambda config: CLASS, limit=limits)(settings, tensors, None, None)
    assert [(place.sample, place.image) for place in places] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    first = 0
    for number, (place, size, canvas) in enumerate(zip(places, sizes, canvases, strict=True)):
        sample, image = place.sample, place.image
        assert (place.size, place.placeless) == (size, {})
        positions = positions_of(tokens, sample)[counts[number - 1] if image else 0 :]
        # the picture on its canvas
        new = get_patch_output_size(np.zeros((3, *size)), canvas, ChannelDimension.FIRST)
        top, left = ((whole - part) // 2 for whole, part in zip(canvas, new, strict=True))
        tile_columns = canvas[1] // TILE

        def cell_owner(entry: int, y: int, x: int, class_rows: int) -> Owner | None:
            row, column = y % TILE // SIDE, x % TILE // SIDE
            if max(row, column) >= CELLS:
                return None
            tile = y // TILE * tile_columns + x // TILE
            where = (y // TILE * CELLS + row, x // TILE * CELLS + column)
            return entry + tile, row * CELLS + column + class_rows, *where

        for part, before in (("vision", CLASS), ("projector", 0)):
            whole, view = place.views(part)  # type: ignore[arg-type]
            check(
                whole,
                (CELLS, CELLS),
                lambda y, x: cell_owner(first, y, x, before) if max(y, x) < TILE else None,
                (TILE, TILE),
                size,
            )
            shape = (canvas[0] // TILE * CELLS, tile_columns * CELLS)
            assert view.shape == shape
            for (entry, row, down, across), box in content(view).items():
                tile = down // CELLS * tile_columns + across // CELLS
                assert (entry, row) == (first + 1 + tile, down % CELLS * CELLS + across % CELLS + before)
                edges = [start(across) - left, start(down) - top, start(across) + SIDE - left, start(down) + SIDE - top]
                factors = (size[1] / new[1], size[0] / new[0]) * 2
                assert box == pytest.approx([edge * factor for edge, factor in zip(edges, factors, strict=True)])
            assert len(view.rows) == shape[0] * shape[1]
        whole, view = place.views("language")
        check(
            whole,
            (CELLS, CELLS),
            lambda y, x: (
                (sample, positions[y // SIDE * CELLS + x // SIDE], y // SIDE, x // SIDE)
                if max(y, x) < CELLS * SIDE
                else None
            ),
            (TILE, TILE),
            size,
        )
        weight, _ = weights[number]
        rows, columns = weight.shape[:2]
        assert (view.shape, view.index, len(view.rows)) == ((rows, columns), sample, rows * columns)
        for (_, position, row, column), box in content(view).items():
            assert position == positions[9 + row * (columns + 1) + column]
            down, across = (weight[row, column].abs() > 1e-6).nonzero().T.tolist()
            edges = [start(min(across)) - left, start(min(down)) - top]
            edges += [start(max(across)) + SIDE - left, start(max(down)) + SIDE - top]
            factors = (size[1] / new[1], size[0] / new[0]) * 2
            assert box == pytest.approx([edge * factor for edge, factor in zip(edges, factors, strict=True)])
        first += 1 + canvas[0] // TILE * tile_columns


def test_several_pictures_of_a_sample_are_made_squares_where_the_processor_says_so() -> None:
    """One alone is cut into tiles; of two, each is a square with bars, and takes a newline behind its tokens."""
    counts = [9 + 6 * 4, 10, 10]
    tensors = {
        "input_ids": ids("i" * counts[0], "i" * 20),
        "image_sizes": torch.tensor([(28, 14), (30, 15), (21, 42)]),
        "batch_num_images": torch.tensor([1, 2]),
    }
    assert anyres_tokens()(model_config(), tensors) == counts
    alone, tall, wide = anyres_places(class_rows=lambda config: CLASS)(model_config(), tensors, None, None)
    assert [len(place.views("vision")) for place in (alone, tall, wide)] == [2, 1, 1]
    assert [place.views("vision")[0].index for place in (alone, tall, wide)] == [0, 3, 4]
    for place, positions, bars, longest in ((tall, range(9), (0, 7), 30), (wide, range(10, 19), (10, 0), 42)):
        for part in ("vision", "projector", "language"):
            (view,) = place.views(part)  # type: ignore[arg-type]
            factor = longest / TILE
            for (_, row, down, across), box in content(view).items():
                number = 3 * down + across
                assert row == {"vision": number + 1, "projector": number, "language": positions[number]}[part]
                left, top = across * SIDE * factor - bars[1], down * SIDE * factor - bars[0]
                assert box == pytest.approx([left, top, left + SIDE * factor, top + SIDE * factor])


def test_pictures_without_sizes_or_with_other_counts_are_refused() -> None:
    tensors = {
        "input_ids": ids("i"),
        "image_sizes": torch.tensor([(28, 14)] * 2),
        "batch_num_images": torch.tensor([1, 2]),
    }
    with pytest.raises(InputError, match="batch_num_images counts 3 pictures, and image_sizes has 2"):
        anyres_tokens()(model_config(), tensors)
    with pytest.raises(InputError, match="pixel_values came without image_sizes"):
        anyres_places(class_rows=lambda config: 0)(model_config(), {"input_ids": ids("i")}, None, None)


@pytest.mark.parametrize(("length", "new"), [(8, 5), (7, 7), (3, 5), (9, 2), (6, 3), (27, 13), (1, 1), (1, 4), (4, 7)])
def test_cells_that_a_bilinear_map_is_made_of(length: int, new: int) -> None:
    weights = torch.nn.functional.interpolate(torch.eye(length)[None], new, mode="linear")[0]
    expected = [[int(w.nonzero().min()), int(w.nonzero().max())] for w in weights.T]
    assert interpolated_from(length, new).tolist() == expected
