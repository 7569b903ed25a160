"""Contract: paint one pixel box of a picture, and exactly the rows that the layout names change, in every part.

Attention in the vision tower mixes rows, so it is cut (every branch zeroed) for the points behind it.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from mmlens.core.errors import NoPlaceError
from mmlens.models.hooked import HookedMultimodal
from tests.conftest import SHORT, Subject
from tests.tiny import TINY, picture
from tests.tiny import llava as llava_model

#: Points with places; the graph says which part's rows they hold.
POINTS = ["vision.hook_embed", "projector.hook_in", "projector.hook_out", "hook_embed"]
Box = tuple[int, int, int, int]


def some_boxes(height: int, width: int, count: int, seed: int) -> Iterator[Box]:
    """Random boxes of every size, single pixels and the whole picture among them."""
    rng = np.random.default_rng(seed)
    yield 0, 0, 1, 1
    yield width - 1, height - 1, width, height
    yield 0, 0, width, height
    for _ in range(count):
        left, top = int(rng.integers(width)), int(rng.integers(height))
        yield left, top, int(rng.integers(left + 1, width + 1)), int(rng.integers(top + 1, height + 1))


def painted(pixels: torch.Tensor, box: Box) -> torch.Tensor:
    """The picture with every pixel of the box inverted."""
    left, top, right, bottom = box
    out = pixels.clone()
    out[top:bottom, left:right] = 255 - out[top:bottom, left:right]
    return out


@torch.no_grad()
def held(model: HookedMultimodal, batch: Any, *, cut: bool = True) -> dict[str, torch.Tensor]:
    """What the points hold, without attention between patches."""
    hooks = [("vision.blocks.*.hook_attn_out", lambda a, hook: torch.zeros_like(a))] if cut else []
    with model.hooks(hooks):
        return dict(model.run_with_cache(batch, names=POINTS)[1].items())


def changed_rows(
    model: HookedMultimodal, name: str, before: torch.Tensor, after: torch.Tensor, index: int | None
) -> set[int]:
    """Rows of one picture's entry that differ; asserts that no other entry of the batch axis does."""
    differs = (before != after).any(-1)
    if index is None:
        assert differs.ndim == 1
        return set(differs.nonzero().flatten().tolist())
    others = torch.cat([differs[:index], differs[index + 1 :]])
    assert not others.any(), f"{name}: another picture's rows changed"
    return set(differs[index].nonzero().flatten().tolist())


def check(
    model: HookedMultimodal, pictures: list[list[torch.Tensor]], sample: int, image: int, boxes: Iterator[Box]
) -> None:
    """Paint each box into one picture of a batch; compare with the layout at every point."""
    texts = [SHORT] * len(pictures)
    batch = model.prepare(texts, images=pictures)
    before = held(model, batch)
    for box in boxes:
        changed = [list(row) for row in pictures]
        changed[sample][image] = painted(pictures[sample][image], box)
        after = held(model, model.prepare(texts, images=changed))
        for name in POINTS:
            part: Any = model.graph[name].sequence
            grid = batch.layout.grid(part, sample=sample, image=image)
            expected = set(batch.layout.patches(box, part=part, sample=sample, image=image).tolist())
            assert changed_rows(model, name, before[name], after[name], grid.index) == expected, (name, box)


@pytest.mark.parametrize("tiny", TINY[:3], ids=lambda tiny: tiny.name)
def test_one_picture_per_sample(tiny: Any) -> None:
    check(tiny.make(), [[picture(0)], [picture(1)]], 1, 0, some_boxes(32, 32, 12, seed=0))


def test_a_class_row_that_is_handed_on_has_no_place() -> None:
    """The language model receives the class row in front of each picture's patches."""
    model = llava_model(keeps_class_row=True)
    layout = model.prepare(SHORT, images=picture(0)).layout
    assert len(layout.image[0]) == 17
    assert layout.grid("language").rows.tolist() == layout.image[0][1:].tolist()
    check(model, [[picture(0), picture(1)], [picture(2)]], 0, 1, some_boxes(32, 32, 6, seed=5))


@pytest.mark.parametrize(("sample", "image"), [(0, 0), (0, 1), (1, 0)])
@pytest.mark.parametrize("tiny", TINY[:3], ids=lambda tiny: tiny.name)
def test_several_pictures_per_sample(tiny: Any, sample: int, image: int) -> None:
    check(tiny.make(), [[picture(0), picture(1)], [picture(2)]], sample, image, some_boxes(32, 32, 4, seed=1))


@pytest.mark.parametrize(("sample", "image"), [(0, 0), (0, 1), (1, 0)])
def test_pictures_of_different_size_in_a_packed_tower(qwen: Subject, sample: int, image: int) -> None:
    sizes = {(0, 0): (32, 64), (0, 1): (48, 32), (1, 0): (64, 48)}
    pictures = [[picture(0, 32, 64), picture(1, 48, 32)], [picture(2, 64, 48)]]
    check(qwen.model, pictures, sample, image, some_boxes(*sizes[sample, image], 8, seed=2))


def with_processor(model: HookedMultimodal, image_processor: Any) -> HookedMultimodal:
    """A LLaVA whose pictures are resized, cropped or padded differently."""
    model.processor.image_processor = image_processor
    return model


def check_through_a_resize(model: HookedMultimodal, height: int, width: int) -> None:
    """Interpolation spreads a pixel over neighbours, so a box is painted with a margin: rows that lie deep inside must
    change, rows that lie farther away than the kernel reaches must not."""
    base = picture(5, height, width)
    batch = model.prepare(SHORT, images=base)
    before = held(model, batch)["vision.hook_embed"][0]
    grid = batch.layout.grid("vision")
    reach = 3.5 * max(height, width) / 32 if max(height, width) > 32 else 3.5
    for box in some_boxes(height, width, 10, seed=3):
        left, top, right, bottom = box
        after = held(model, model.prepare(SHORT, images=painted(base, box)))["vision.hook_embed"][0]
        moved = set((before != after).any(-1).nonzero().flatten().tolist())
        wide = (left - reach, top - reach, right + reach, bottom + reach)
        assert moved <= set(batch.layout.patches(wide, part="vision").tolist()), box
        for row, (x0, y0, x1, y1) in zip(grid.rows.tolist(), grid.boxes.tolist(), strict=True):
            overlap = (min(x1, right) - max(x0, left), min(y1, bottom) - max(y0, top))
            if min(overlap) > reach / 3:
                assert row in moved, (box, row)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (40, 72), (96, 48), (33, 50)])
def test_resize_and_centre_crop(height: int, width: int) -> None:
    processor = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    model = with_processor(TINY[0].make(), processor)
    check_through_a_resize(model, height, width)
    boxes = model.prepare(SHORT, images=picture(0, height, width)).layout.grid().boxes
    centre = boxes[:, :2].min(0).values + boxes[:, 2:].max(0).values
    torch.testing.assert_close(
        centre / 2, torch.tensor([width / 2, height / 2]).double(), atol=max(height, width) / 32, rtol=0
    )


@pytest.mark.parametrize(("height", "width"), [(32, 32), (24, 40), (64, 32)])
def test_pad_to_square(height: int, width: int) -> None:
    processor = LlavaImageProcessorPil(
        do_pad=True, size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}, resample=3, image_std=[1, 1, 1]
    )
    model = with_processor(TINY[0].make(), processor)
    check_through_a_resize(model, height, width)
    boxes = model.prepare(SHORT, images=picture(0, height, width)).layout.grid().boxes
    assert float(boxes[:, 0].min()) == (width - max(height, width)) / 2
    assert float(boxes[:, 1].min()) == (height - max(height, width)) / 2


def test_merged_rows_stand_for_two_by_two_patches_in_block_order(qwen: Subject) -> None:
    layout = qwen.model.prepare(SHORT, images=picture(0, 32, 64)).layout
    vision, merged = layout.grid("vision"), layout.grid("projector")
    assert (vision.shape, merged.shape) == ((4, 8), (2, 4))
    # row 0..3 of the tower are one block: two patches of the first row, then two of the second
    assert vision.boxes[:5].tolist() == [[0, 0, 8, 8], [8, 0, 16, 8], [0, 8, 8, 16], [8, 8, 16, 16], [16, 0, 24, 8]]
    assert merged.boxes[:2].tolist() == [[0, 0, 16, 16], [16, 0, 32, 16]]


@pytest.mark.parametrize("tiny", TINY[:3], ids=lambda tiny: tiny.name)
@pytest.mark.parametrize("part", ["vision", "projector", "language"])
def test_boxes_turns_patches_round(tiny: Any, part: Any) -> None:
    layout = tiny.make().prepare([SHORT] * 2, images=[[picture(0), picture(1)], [picture(2)]]).layout
    for sample, image in ((0, 0), (0, 1), (1, 0)):
        for row in layout.grid(part, sample=sample, image=image).rows.tolist():
            box = layout.boxes([row], part=part, sample=sample, image=image)[0].tolist()
            assert layout.patches(tuple(box), part=part, sample=sample, image=image).tolist() == [row]  # type: ignore[arg-type]


@pytest.mark.parametrize("tiny", TINY[:3], ids=lambda tiny: tiny.name)
@pytest.mark.parametrize("part", ["vision", "projector", "language"])
def test_raster_puts_each_value_where_its_box_is(tiny: Any, part: Any) -> None:
    layout = tiny.make().prepare(SHORT, images=[picture(0), picture(1)]).layout
    for image in (0, 1):
        grid = layout.grid(part, image=image)
        values = torch.full((int(grid.rows.max()) + 1,), -1.0)
        centres = (grid.boxes[:, :2] + grid.boxes[:, 2:]).float() / 2
        values[grid.rows] = centres[:, 1] * 100 + centres[:, 0]  # y * 100 + x
        rows, columns = grid.shape
        side = 32 / rows
        expected = torch.tensor(
            [[(r + 0.5) * side * 100 + (c + 0.5) * side for c in range(columns)] for r in range(rows)]
        )
        assert torch.equal(layout.raster(values, part=part, image=image), expected)


@torch.no_grad()
def test_the_rows_of_a_q_former_have_no_place_but_its_vision_rows_do(blip: Subject) -> None:
    model = blip.model
    batch = model.prepare(SHORT, images=picture(0))
    before = held(model, batch, cut=False)["vision.hook_embed"][0]
    for box in some_boxes(32, 32, 12, seed=4):
        after = held(model, model.prepare(SHORT, images=painted(picture(0), box)), cut=False)["vision.hook_embed"][0]
        moved = set((before != after).any(-1).nonzero().flatten().tolist())
        assert moved == set(batch.layout.patches(box, part="vision").tolist())
    why = "the 4 queries of the Q-Former mix all patches, so they have no place in the image; ask for part='vision'"
    for part in ("projector", "language"):
        with pytest.raises(NoPlaceError, match=why):
            batch.layout.patches((0, 0, 8, 8), part=part)  # type: ignore[arg-type]
        with pytest.raises(NoPlaceError, match=why):
            batch.layout.boxes([0], part=part)  # type: ignore[arg-type]
        with pytest.raises(NoPlaceError, match=why):
            batch.layout.raster(torch.zeros(4), part=part)  # type: ignore[arg-type]


def test_a_mask_names_the_rows_that_lie_mostly_inside(llava: Subject) -> None:
    layout = llava.model.prepare(SHORT, images=picture(0)).layout
    mask = torch.zeros(32, 32, dtype=torch.bool)
    mask[0:8, 0:12] = True  # the first patch, and half of the second
    assert layout.patches_of_mask(mask, part="projector").tolist() == [0, 1]
    mask[0:8, 11] = False  # less than half of the second
    assert layout.patches_of_mask(mask, part="projector").tolist() == [0]
    small = torch.zeros(32, 32, dtype=torch.bool)
    small[17, 25] = True
    assert layout.patches_of_mask(small, part="projector").tolist() == [2 * 4 + 3]
