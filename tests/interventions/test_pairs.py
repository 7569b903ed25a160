"""Batches that activations can be moved between: everything that may differ is told, and nothing else is refused."""

from typing import Any

import pytest
import torch

from mmlens.core.errors import InputError
from mmlens.inputs.batch import MultimodalBatch
from mmlens.inputs.layout import TokenLayout
from mmlens.inputs.patch_geometry import Places, RowGrid
from mmlens.interventions.pairs import require_same_layout

TOKENS = torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1]]).bool()
IMAGES = torch.tensor([[0, 0, 1, 0], [0, 1, 0, 0]]).bool()


def grid(rows: Any = (1, 2), cells: Any = ((0, 0), (0, 1)), shape: tuple[int, int] = (1, 2)) -> RowGrid:
    """Rows of a picture."""
    return RowGrid(0, torch.tensor(rows), torch.zeros(2, 4), torch.tensor(cells), shape)


def batch(
    tokens: torch.Tensor = TOKENS, images: torch.Tensor = IMAGES, places: Any = None, **inputs: torch.Tensor
) -> MultimodalBatch:
    """A batch of two samples."""
    default = [Places(sample, 0, (1, 1), {"vision": grid(), "language": (grid(), grid())}, {}) for sample in (0, 1)]
    layout = TokenLayout(images, tokens, tuple(default if places is None else places))
    return MultimodalBatch({"input_ids": tokens.long(), **inputs}, layout)


def other(part: str, *grids: RowGrid, placeless: Any = None) -> list[Places]:
    """Places of which the second picture's are others."""
    parts: Any = {"vision": grid(), "language": (grid(), grid()), part: grids[0] if part == "vision" else grids}
    return [*batch().layout.places[:1], Places(1, 0, (1, 1), parts, placeless or {})]


def test_batches_of_one_layout_are_taken() -> None:
    pixels = torch.zeros(2, 3, 4, 4)
    require_same_layout(batch(pixel_values=pixels), batch(pixel_values=pixels + 1))
    # what has no place has nothing to compare
    why = {"vision": "no place"}
    different = other("vision", grid((3, 4)), placeless=why)
    require_same_layout(batch(places=different), batch(places=different))
    require_same_layout(
        batch(places=[*different[:1], Places(1, 0, (1, 1), {}, dict.fromkeys(("vision", "language"), "no"))]), batch()
    )


@pytest.mark.parametrize(
    ("corrupted", "message"),
    [
        (
            batch(torch.ones(2, 5).bool(), torch.zeros(2, 5).bool()),
            r"clean is \[2, 4\] and corrupted \[2, 5\] \[batch pos\]",
        ),
        (batch(images=IMAGES.flip(0)), "differ in where image tokens are, first at position 1 of sample 0"),
        (batch(images=IMAGES & TOKENS[:1].new_tensor([[1], [0]])), "image tokens are, first at position 1 of sample 1"),
        (batch(torch.ones_like(TOKENS)), "differ in where padding are, first at position 0 of sample 0"),
        (batch(pixel_values=torch.zeros(2, 3)), r"differ in pixel_values: None and \[2, 3\]; use pictures of one size"),
        (batch(input_ids=torch.zeros(2, 3)), r"differ in input_ids: \[2, 4\] and \[2, 3\]; use pictures"),
        (
            batch(places=other("vision", grid(shape=(2, 1)))),
            r"differ in picture 1: its rows in the part 'vision' are \(1, 2\)",
        ),
        (
            batch(places=other("vision", grid((1, 3)))),
            r"in picture 1: .* are \(1, 2\) \(rows, columns\) of patches and \(1, 2\)",
        ),
        (
            batch(places=other("vision", grid(cells=((0, 1), (0, 0))))),
            "differ in picture 1: its rows in the part 'vision'",
        ),
        (batch(places=other("language", grid(), grid((1, 3)))), "differ in picture 1: its rows in the part 'language'"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_what_differs_is_told(corrupted: MultimodalBatch, message: str) -> None:
    with pytest.raises(InputError, match=message):
        require_same_layout(batch(), corrupted)


def test_more_pictures_and_more_views_of_one_are_told() -> None:
    places = batch().layout.places
    with pytest.raises(InputError, match="clean has 2 pictures and corrupted 1; use as many"):
        require_same_layout(batch(), batch(places=places[:1]))
    for corrupted in (other("language", grid()), other("language", grid(), grid(), grid())):
        for one, two in ((batch(), batch(places=corrupted)), (batch(places=corrupted), batch())):
            with pytest.raises(
                InputError, match=r"differ in picture 1: its rows in the part 'language' are \(1, 2\) and"
            ):
                require_same_layout(*((one, two) if len(one.layout.places[1].views("language")) > 1 else (two, one)))


def test_one_that_has_a_tensor_more_is_told_too() -> None:
    with pytest.raises(InputError, match=r"differ in pixel_values: \[2, 3\] and None"):
        require_same_layout(batch(pixel_values=torch.zeros(2, 3)), batch())
