"""Corruptions: other pictures in the same places."""

import pytest
import torch

from mmlens.core.errors import InputError
from mmlens.interventions.corruptions import blur, swap
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
    longer = subject.model.extend(batch, torch.tensor([[9, 11], [12, 13]]))
    swapped = swap(subject.model, longer, batch.images)
    assert torch.equal(swapped["input_ids"], longer["input_ids"])
    assert torch.equal(subject.model(swapped), subject.model(longer))


def test_blur_takes_detail_and_leaves_the_mean(llava: Subject) -> None:
    batch = llava.batches["left"]
    blurred = blur(llava.model, batch, radius=6)
    assert blurred["pixel_values"].std() < 0.4 * batch["pixel_values"].std()
    assert abs(blurred["pixel_values"].mean() - batch["pixel_values"].mean()) < 0.1


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
