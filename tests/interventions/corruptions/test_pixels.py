"""Corruptions of the pictures: which pixels change, and how."""

from typing import Any

import numpy as np
import pytest
import torch

from mmlens.core.errors import InputError
from mmlens.interventions.corruptions import blank, blur, mean, noise, shuffle, swap, twin
from tests.conftest import Subject
from tests.tiny import picture


def test_swapping_equals_preparing_the_other_pictures(subject: Subject) -> None:
    batch = subject.batches["left"]
    others = [[picture(5 + i, p[0].height, p[0].width)] for i, p in enumerate(batch.images)]
    swapped = swap(subject.model, batch, others)
    again = subject.model.prepare(
        ["describe the image", "what color is the big red circle"],
        images=others,  # type: ignore[arg-type]
    )
    assert all(torch.equal(swapped[name], again[name]) for name in again)
    assert not torch.equal(swapped["pixel_values"], batch["pixel_values"])
    assert torch.equal(swapped.layout.is_image, batch.layout.is_image)


def test_swapping_after_generated_tokens_keeps_them(subject: Subject) -> None:
    batch = subject.batches["left"]
    others = [[picture(5 + i, p[0].height, p[0].width)] for i, p in enumerate(batch.images)]
    tokens = torch.tensor([[9, 11], [12, 13]])
    longer = swap(subject.model, subject.model.extend(batch, tokens), others)
    expected = subject.model.extend(swap(subject.model, batch, others), tokens)
    assert torch.equal(longer["input_ids"], expected["input_ids"])
    assert torch.equal(subject.model(longer), subject.model(expected))


def test_blur_takes_detail_and_leaves_the_mean(llava: Subject) -> None:
    batch = llava.batches["left"]
    blurred = blur(llava.model, batch, radius=6)
    assert blurred["pixel_values"].std() < 0.4 * batch["pixel_values"].std()
    assert abs(blurred["pixel_values"].mean() - batch["pixel_values"].mean()) < 0.1


def test_a_twin_differs_in_half_of_its_pixels_at_most(llava: Subject) -> None:
    """Pixels are counted, whatever lines or channels they lie in."""
    model, batch = llava.model, llava.batches["left"]

    def changed(rows: slice, columns: slice) -> list[np.ndarray]:
        pictures = [np.array(sample[0].convert("RGB")) for sample in batch.images]
        for pixels in pictures:
            pixels[rows, columns, 0] ^= 255
        return pictures

    height, width = batch.images[0][0].height, batch.images[0][0].width
    for rows, columns in ((slice(None), slice(1)), (slice(1), slice(None)), (slice(height // 2), slice(None))):
        assert not torch.equal(twin(model, batch, changed(rows, columns))["pixel_values"], batch["pixel_values"])
    with pytest.raises(InputError, match=r"The twin of sample 0 differs in 5\d% of its pixels"):
        twin(model, batch, changed(slice(height), slice(width // 2 + 1)))


def test_what_would_change_nothing_is_refused(llava: Subject) -> None:
    """In any sample: what is the same in one is nothing to compare there."""
    model, batch = llava.model, llava.batches["left"]
    first, second = (sample[0] for sample in batch.images)
    grey = model.prepare("the image", images=torch.full((32, 32, 3), 127, dtype=torch.uint8))
    for change, message in (
        (lambda: swap(model, batch, batch.images), r"^swap would leave the pictures of samples \[0, 1\] as they are"),
        (lambda: swap(model, batch, [second, second]), r"^swap would leave the pictures of samples \[1\] as they are"),
        (lambda: swap(model, batch, [np.asarray(first), picture(9, *second.size[::-1])]), r"of samples \[0\] as they"),
        (lambda: blur(model, batch, radius=0.01), r"^blur would leave the pictures of samples \[0, 1\] as they are"),
        (lambda: blank(model, grey), r"^blank would leave the pictures of samples \[0\] as they are"),
    ):
        with pytest.raises(InputError, match=message):
            change()


@pytest.mark.parametrize("radius", [0, -1, float("nan"), float("inf"), "3", True])
def test_a_radius_is_a_number_above_zero(llava: Subject, radius: Any) -> None:
    with pytest.raises(InputError, match=rf"radius={radius!r} must be (a finite number|above 0)"):
        blur(llava.model, llava.batches["left"], radius=radius)


def test_another_number_of_pictures_is_refused(llava: Subject) -> None:
    batch = llava.batches["left"]
    with pytest.raises(
        InputError, match=r"The batch has \[1, 1\] pictures per sample, the new ones are \[1\]; give as many"
    ):
        swap(llava.model, batch, [picture(0)])


def test_another_layout_is_refused(qwen: Subject) -> None:
    batch = qwen.batches["left"]
    with pytest.raises(InputError, match=r"The new pictures have another layout: \w+ is .* Resize them"):
        swap(qwen.model, batch, [picture(0), picture(1, 64, 96)])


def test_blur_needs_the_pictures(llava: Subject) -> None:
    raw = llava.model.batch(dict(llava.batches["left"]))
    with pytest.raises(InputError, match="blur needs the pictures, and this batch was made from tensors"):
        blur(llava.model, raw)


def pixels(batch: Any, sample: int = 0) -> np.ndarray:
    return np.asarray(batch.images[sample][0]).astype(int)


def test_a_region_is_corrupted_and_nothing_else(subject: Subject) -> None:
    """Boxes and masks, one for all samples or one each, for every corruption that takes a region."""
    model = subject.model
    clean = subject.batches["left"]
    mask = torch.zeros(32, 32, dtype=torch.bool)
    mask[4:20, 8:30] = True
    inside = mask.numpy()
    second = tuple(clean.images[1][0].size)
    whole = (0, 0, *second)
    made = {
        "box": blur(model, clean, region=[(8, 4, 30, 20), whole]),
        "mask": blank(model, clean, region=[mask, whole]),
        "noise": noise(model, clean, at="pixels", region=[mask.numpy(), whole]),
    }
    for corrupted in made.values():
        changed = (pixels(corrupted) != pixels(clean)).any(-1)
        assert not changed[~inside].any()
        assert changed[inside].mean() > 0.9
        assert not torch.equal(corrupted["pixel_values"], clean["pixel_values"])
    assert (pixels(made["mask"])[inside] == 127).all()


def test_blank_is_one_colour_and_mean_the_mean_picture(llava: Subject) -> None:
    model, clean = llava.model, llava.batches["left"]
    assert (pixels(blank(model, clean, color=(10, 20, 30))) == [10, 20, 30]).all()
    reference = model.prepare(["the image"] * 3, images=[[picture(i)] for i in (4, 5, 6)])
    average = np.mean([np.asarray(picture(i)) for i in (4, 5, 6)], axis=0)
    assert np.abs(pixels(mean(model, clean, reference, at="pixels")) - average).max() <= 0.5


def test_pixel_noise_has_its_size_in_spreads_of_the_picture(llava: Subject) -> None:
    model = llava.model
    grey = torch.randint(118, 138, (32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    clean = model.prepare("the image", images=grey)
    added = [pixels(noise(model, clean, sigma=2.0, at="pixels", seed=seed)) - pixels(clean) for seed in (3, 3, 4)]
    spread = np.asarray(grey).std(axis=(0, 1)).mean()
    assert added[0].std() == pytest.approx(2 * spread, rel=0.05)
    assert (added[0] == added[1]).all()
    assert (added[0] != added[2]).mean() > 0.8


def test_shuffled_tiles_are_the_same_patches_elsewhere(llava: Subject) -> None:
    model, clean = llava.model, llava.batches["left"]
    moved = shuffle(model, clean, at="pixels", seed=1)

    def tiles(shown: np.ndarray) -> list[bytes]:
        return [shown[r : r + 8, c : c + 8].tobytes() for r in range(0, 32, 8) for c in range(0, 32, 8)]

    before, after = tiles(pixels(clean)), tiles(pixels(moved))
    assert before != after
    assert sorted(before) == sorted(after)


def test_twins_differ_in_one_place(llava: Subject) -> None:
    model = llava.model
    shown = picture(0)
    other = shown.clone()
    other[4:12, 4:12] = 0
    clean = model.prepare("the image", images=shown)
    assert (pixels(twin(model, clean, [other])) == np.asarray(other)).all()
    for wrong, message in (
        (shown, "The twin of sample 0 is the picture itself"),
        (picture(1), r"The twin of sample 0 differs in \d+% of its pixels, so it is another picture; use swap"),
        (picture(0, 16, 32), r"The twin of sample 0 is \(32, 16\) \(width, height\), its picture \(32, 32\)"),
    ):
        with pytest.raises(InputError, match=message):
            twin(model, clean, [wrong])
    with pytest.raises(
        InputError, match=r"needs one picture per sample and as many twins; found \[1\] pictures, 2 twins"
    ):
        twin(model, clean, [other, other])


def test_regions_that_do_not_fit_are_refused(llava: Subject) -> None:
    model, clean = llava.model, llava.batches["left"]
    for region, message in (
        ((40, 0, 50, 8), r"covers no pixel of the picture \(32 wide, 32 high\)"),
        (torch.zeros(32, 32), "covers no pixel"),
        (torch.ones(8, 8), r"region is a mask \[8, 8\], but the picture is \[height=32 width=32\]"),
        ([(0, 0, 8, 8)] * 3, "region names 3 regions for 2 samples"),
    ):
        with pytest.raises(InputError, match=message):
            blur(model, clean, region=region)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"color=\(1, 2, 300\) must be 3 items, each a whole number, from 0 to 255"):
        blank(model, clean, color=(1, 2, 300))
    with pytest.raises(InputError, match="shuffle cannot keep pixels inside a region"):
        shuffle(model, clean, at="pixels", region=(0, 0, 8, 8))
