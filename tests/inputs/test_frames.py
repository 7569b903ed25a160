"""Towers that see a video's frames one by one: videos of several sizes and lengths, each row drawn pixel by pixel."""

# ruff: noqa: B023 - a drawing is compared before the loop goes on

from typing import Any

import pytest
import torch

from mmlens.core.errors import InputError
from mmlens.inputs.patch_geometry.frames import frame_places
from tests.inputs.drawing import VIDEO, check, config, ids, positions_of

#: Frames of 8 x 12 pixels: 2 x 3 patches of 4 pixels, behind two class rows; a token is a column of two patches.
PIXELS, SIDE, CLASS, TOKENS = (8, 12), 4, 2, 3
#: Two videos in the first sample, of two frames and one; one of three frames in the second. A token ends each.
SIZES = [[(2, 8, 24), (1, 16, 12)], [(3, 4, 6)]]
IDS = ids("1" + "v" * 7 + "v" * 4 + "1", "22" + "v" * 10)


def columns_of(config: Any, patches: tuple[int, int]) -> tuple[torch.Tensor, tuple[int, int]]:
    """A row for each column of patches, as boxes in patches."""
    return torch.tensor([[x, 0, x + 1, patches[0]] for x in range(patches[1])]), (1, patches[1])


@pytest.mark.parametrize("side", [SIDE, (SIDE, SIDE)])
@pytest.mark.parametrize("pooled", [True, False])
def test_every_row_of_a_frame_stands_for_its_pixels(side: Any, pooled: bool) -> None:
    options: dict[str, Any] = {"projector_cells": columns_of} if pooled else {}
    made = frame_places(token_cells=columns_of, class_rows=lambda config: CLASS, pixels="frames", closing=1, **options)
    batch = {"frames": torch.zeros(3, 3, 3, *PIXELS), "input_ids": IDS}
    places = made(config(patch_size=side), batch, SIZES, None)
    entry = 0
    numbers = iter(places)
    for sample, videos in enumerate(SIZES):
        before = 0
        for video, (frames, *_) in enumerate(videos):
            positions = positions_of(IDS, sample, VIDEO)[before:]
            for frame in range(frames):
                place = next(numbers)
                assert (place.sample, place.image, place.frames, place.placeless) == (sample, video, (frame,), {})
                # no reader, so that boxes are in pixels of the tower
                assert place.size == PIXELS

                def patch(y: int, x: int, first: int = 0) -> tuple[int, int, int, int]:
                    return entry, y // 4 * 3 + x // 4 + first, y // 4, x // 4

                def column(y: int, x: int) -> tuple[int, int, int, int]:
                    return entry, x // 4, 0, x // 4

                check(place.views("vision")[0], (2, 3), lambda y, x: patch(y, x, CLASS), PIXELS, PIXELS)
                check(
                    place.views("projector")[0],
                    (1, 3) if pooled else (2, 3),
                    column if pooled else patch,
                    PIXELS,
                    PIXELS,
                )
                check(
                    place.views("language")[0],
                    (1, 3),
                    lambda y, x: (sample, positions[frame * TOKENS + x // 4], 0, x // 4),
                    PIXELS,
                    PIXELS,
                )
                entry += 1
            before += frames * TOKENS + 1
    assert next(numbers, None) is None


class Reader:
    """One that resizes a whole frame to what the tower receives."""

    do_resize, do_center_crop, do_pad = True, False, False


def test_frames_that_were_resized_have_boxes_in_their_own_pixels() -> None:
    made = frame_places(token_cells=columns_of, pixels="frames", closing=1)
    places = made(config(patch_size=SIDE), {"frames": torch.zeros(3, 3, 3, *PIXELS), "input_ids": IDS}, SIZES, Reader())
    assert [place.size for place in places] == [(8, 24)] * 2 + [(16, 12)] + [(4, 6)] * 3
    last = [place.views("language")[0].boxes[-1].tolist() for place in places]
    assert last == [[16, 0, 24, 8]] * 2 + [[8, 0, 12, 16]] + [[4, 0, 6, 4]] * 3
    assert places[0].views("vision")[0].rows.tolist() == list(range(6))


def test_tensors_alone_have_as_many_frames_as_they_hold() -> None:
    made = frame_places(token_cells=columns_of)
    batch = {"pixel_values_videos": torch.zeros(2, 3, 3, *PIXELS), "input_ids": ids("v" * 18)}
    places = made(config(patch_size=SIDE), batch, None, Reader())
    assert [(place.image, place.frames, place.size) for place in places] == [
        (video, (frame,), PIXELS) for video in (0, 1) for frame in (0, 1, 2)
    ]
    assert [place.views("vision")[0].index for place in places] == [0, 1, 2, 3, 4, 5]
    with pytest.raises(InputError, match="pictures were given for 1 placeholders"):
        made(config(patch_size=SIDE), {**batch, "input_ids": ids("v" * 9)}, None, None)
