"""Painted at real sizes: 336 pixels and 576 tokens, five tiles, tiles of 384 pixels that are no multiple of patches, any size.

Pictures are resized without blending (`resample=0`), so that a painted box spreads by no more than a pixel of either side.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mmlens.inputs.patch_geometry import RowGrid
from mmlens.models.hooked import HookedMultimodal
from tests.checkpoints.cases import SHORT
from tests.checkpoints.layouts import (
    GEMMA3,
    IDEFICS2,
    IDEFICS3,
    INTERNVL3,
    LLAVA,
    LLAVA_NEXT,
    MLLAMA,
    ONEVISION,
    PALIGEMMA2,
    QWEN2_5_VL,
    QWEN2_VL,
    QWEN3_VL,
    SMOLVLM2,
    Layout,
)

#: Layouts and sizes (height, width), and how many image tokens transformers gives a picture of that size.
SIZES = [
    (LLAVA, (336, 336), 576),
    (LLAVA, (480, 640), 576),
    (LLAVA_NEXT, (672, 672), 576 + 48 * 49),
    (LLAVA_NEXT, (480, 640), 576 + 36 * 49),
    (ONEVISION, (384, 384), 729 + 27 * 28),
    (ONEVISION, (1500, 1900), 729 + 71 * 92),
    (QWEN2_VL, (480, 640), 17 * 23),
    (QWEN2_5_VL, (375, 500), 13 * 18),
    (QWEN3_VL, (480, 640), 15 * 20),
    (INTERNVL3, (448, 896), 3 * 256),
    (PALIGEMMA2, (300, 400), 256),
    (GEMMA3, (480, 640), 256),
    (IDEFICS3, (480, 640), 13 * 169),
    (SMOLVLM2, (480, 640), 13 * 81),
    (SMOLVLM2, (1000, 400), 9 * 81),
    (IDEFICS2, (480, 640), 64),
    (MLLAMA, (480, 640), 1),
]


@pytest.fixture(params=SIZES, ids=lambda case: f"{case[0].name}-{case[1][0]}x{case[1][1]}")
def case(request: pytest.FixtureRequest) -> tuple[Layout, tuple[int, int], int]:
    """Each layout at each size."""
    return request.param


@pytest.fixture
def model(case: Any, folder_of: Callable[[Layout], Path]) -> HookedMultimodal:
    """Its model, whose pictures are resized without blending."""
    made = HookedMultimodal.from_pretrained(folder_of(case[0]))
    made.processor.image_processor.resample = Image.Resampling.NEAREST
    return made


def boxes(height: int, width: int, grids: list[RowGrid]) -> Iterator[tuple[int, int, int, int]]:
    """Corners, random boxes, and boxes at the inner edges of the finest view, where tiles meet."""
    rng = np.random.default_rng(0)
    yield 0, 0, 5, 5
    yield width - 5, height - 5, width, height
    for _ in range(2):
        left, top = int(rng.integers(width - 12)), int(rng.integers(height - 12))
        yield left, top, int(rng.integers(left + 8, width)), int(rng.integers(top + 8, height))
    finest = max(grids, key=lambda grid: len(grid.rows)).boxes
    for box in finest[rng.permutation(len(finest))[:2]].round().long().tolist():
        left, top = min(max(box[0], 0), width - 6), min(max(box[1], 0), height - 6)
        yield left, top, min(max(box[2], left + 6), width), min(max(box[3], top + 6), height)


def painted(pixels: np.ndarray, box: tuple[int, int, int, int]) -> Image.Image:
    """The picture with every pixel of a box inverted."""
    left, top, right, bottom = box
    out = pixels.copy()
    out[top:bottom, left:right] = 255 - out[top:bottom, left:right]
    return Image.fromarray(out)


def moved_rows(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """Where two states differ: `[entry pos]`, or `[pos]` where there is no batch axis."""
    return (before != after).any(-1)


def check(grid: RowGrid, moved: torch.Tensor, box: tuple[int, int, int, int], scale: float, what: str) -> int:
    """Rows that the box covers have moved, rows farther away than a pixel (of the coarser side) have not."""
    entry = grid.index
    where = moved[grid.rows] if entry is None else moved[entry, grid.rows] if moved.ndim > 1 else moved[grid.rows]
    left, top, right, bottom = box
    b = grid.boxes
    overlap = torch.stack(
        [b[:, 2].clamp(max=right) - b[:, 0].clamp(min=left), b[:, 3].clamp(max=bottom) - b[:, 1].clamp(min=top)], 1
    )
    inside = (overlap > scale).all(1)
    outside = (overlap < -scale).any(1)
    assert where[inside].all(), f"{what}: {int((~where[inside]).sum())} rows under {box} did not move"
    assert not where[outside].any(), f"{what}: {int(where[outside].sum())} rows away from {box} moved"
    return int(inside.sum())


@torch.no_grad()
def test_rows_are_where_the_layout_says(case: Any, model: HookedMultimodal) -> None:
    _, (height, width), tokens = case
    pixels = np.random.default_rng(1).integers(0, 120, (height, width, 3)).astype(np.uint8)
    batch = model.prepare(SHORT, images=Image.fromarray(pixels))
    assert len(batch.layout.image[0]) == tokens
    place = batch.layout.place()
    points = {"vision": "vision.hook_embed"}
    if "projector" not in place.placeless and "language" not in place.placeless:
        points["language"] = "hook_embed"
    elif "projector" not in place.placeless:
        points["projector"] = "projector.hook_out"
    cut = [name for name in model.graph.names if name.startswith("vision.") and name.endswith("hook_attn_out")]

    def held(image: Image.Image) -> dict[str, torch.Tensor]:
        with model.hooks([(cut, lambda a, hook: torch.zeros_like(a))]):
            return dict(
                model.run_with_cache(model.prepare(SHORT, images=image), names=list(points.values()))[1].items()
            )

    before = held(Image.fromarray(pixels))
    seen = 0
    for box in boxes(height, width, list(place.views("vision"))):
        after = held(painted(pixels, box))
        for part, name in points.items():
            moved = moved_rows(before[name], after[name])
            for number, grid in enumerate(place.views(part)):  # type: ignore[arg-type]
                side = grid.boxes[:, 2:] - grid.boxes[:, :2]
                # a pixel of what the tower receives, in pixels of the picture; squeezed views skip pixels of the picture
                pixel = float(side.max()) / 14
                seen += check(grid, moved, box, max(1.0, pixel) + 0.01, f"{part}, view {number}")
    assert seen > 20


def test_gaps_between_tiles_are_nobodys(case: Any, model: HookedMultimodal) -> None:
    """Where a tile is no multiple of patches, its last pixels belong to no row, and its neighbour's first row begins behind."""
    layout, size, _ = case
    if layout not in (ONEVISION, SMOLVLM2):
        return
    grid = model.prepare(SHORT, images=Image.new("RGB", (size[1], size[0]))).layout.grid("vision")
    lefts = grid.boxes[:, 0].unique()
    steps = (lefts[1:] - lefts[:-1]) / (grid.boxes[0, 2] - grid.boxes[0, 0])
    wide = torch.isclose(steps, torch.tensor(20 / 14, dtype=torch.float64))  # 14 pixels and the 6 that are left over
    assert int(wide.sum()) == grid.shape[1] // 27 - 1
    assert torch.isclose(steps[~wide], torch.ones((), dtype=torch.float64)).all()
