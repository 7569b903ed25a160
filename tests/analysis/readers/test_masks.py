"""Masks of polygons and run lengths, pixel by pixel what COCO's own API makes of them."""

from typing import Any

import numpy as np
import pytest

from mmlens.analysis.readers.masks import mask_of
from mmlens.core.errors import InputError


@pytest.mark.parametrize(
    ("polygons", "size", "counts"),
    [
        # run lengths by pycocotools 2.0.11: frPyObjects, merge
        ([[1.2, 1.7, 8.5, 2.1, 6.3, 9.9]], (12, 14), "j02:1O2N1O2NLZ2"),
        ([[0, 0, 5, 0, 5, 5]], (6, 7), "6151O1O1;"),
        ([[-2.5, 3.3, 7.75, -1.2, 12.5, 6.6, 4.1, 11.9]], (9, 10), "2541N2O]11bN"),
        ([[1, 1, 3, 1, 3, 3, 1, 3], [4.4, 0.2, 6.6, 0.9, 5.1, 6.8]], (7, 8), "82506OL39"),
    ],
)
def test_polygons_are_rastered_as_by_cocos_api(polygons: list[Any], size: tuple[int, int], counts: str) -> None:
    expected = mask_of({"size": list(size), "counts": counts}, *size, "its run lengths")
    assert expected.any()
    assert (mask_of(polygons, *size, "the polygons") == expected).all()


def test_compressed_run_lengths_with_differences_below_zero_and_of_several_digits() -> None:
    mask = np.zeros((60, 80), dtype=bool)
    mask[5:40, 10:70] = True
    mask[20, 30] = False
    counts = "mb0S1i" + 39 * "0" + r"\OXO4h0`" + 77 * "0" + "cb0"  # pycocotools 2.0.11: encode
    assert (mask_of({"size": [60, 80], "counts": counts}, 60, 80, "it") == mask).all()
    assert (mask_of({"size": [60, 80], "counts": counts.encode()}, 60, 80, "it") == mask).all()


def test_a_box_covers_its_pixels() -> None:
    mask = mask_of([[2.0, 1.0, 6.0, 1.0, 6.0, 4.0, 2.0, 4.0]], 8, 9, "a box")
    expected = np.zeros((8, 9), dtype=bool)
    expected[1:4, 2:6] = True
    assert (mask == expected).all()


def test_no_polygon_is_an_empty_mask() -> None:
    assert not mask_of([], 3, 4, "nothing").any()


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ([[1, 2, 3, 4]], r"The segmentation of dog is \[\[1, 2, 3, 4\]\]; it must be polygons .* three corners"),
        ([[1, 2, 3, 4, 5]], "three corners"),
        ([[1, 2, 3, 4, 5, float("nan")]], "three corners"),
        ("rle", "must be polygons"),
        ({"counts": [1]}, "of dog need 'size' and 'counts', found 'counts'"),
        ({"size": [4, 3], "counts": [12]}, r"of a picture of \[4, 3\] pixels .* its picture has \[3, 4\]"),
        ({"size": [3, 4], "counts": [5, 6]}, "cover 11 pixels, and its picture has 12"),
        ({"size": [3, 4], "counts": [13, -1]}, "cover 12 pixels"),
    ],
)
def test_what_is_no_mask_is_refused(segmentation: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        mask_of(segmentation, 3, 4, "dog")
