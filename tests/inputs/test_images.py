"""Pictures in, frames between the user's pixels and the encoder's."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mmlens.inputs.images import load_image
from mmlens.inputs.patch_geometry import Frame, picture_frame

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 4, 3)).astype(np.uint8)


def test_every_kind_of_picture_comes_to_the_same_pixels(tmp_path: Path) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    transparent = Image.fromarray(np.dstack([PIXELS, np.full((6, 4), 255, np.uint8)]))
    for given in (
        PIXELS,
        PIXELS.transpose(2, 0, 1),
        PIXELS.astype(np.float32) / 255,
        torch.from_numpy(PIXELS),
        torch.from_numpy(PIXELS).permute(2, 0, 1).double() / 255,
        torch.from_numpy(PIXELS / 255).requires_grad_(),
        np.asfortranarray(PIXELS),
        Image.fromarray(PIXELS),
        transparent,
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
    ):
        found = load_image(given)
        assert found.mode == "RGB"
        assert np.array_equal(np.asarray(found), PIXELS), type(given)


def test_other_modes_become_rgb() -> None:
    grey = Image.fromarray(PIXELS[..., 0])
    assert np.array_equal(np.asarray(load_image(grey)), np.repeat(PIXELS[..., :1], 3, axis=2))
    palette = Image.fromarray(PIXELS).convert("P")
    assert load_image(palette).mode == "RGB"
    assert load_image(np.zeros((3, 5, 3), np.uint8)).size == (5, 3)  # channels last where both could be meant


def settings(**values: Any) -> Any:
    """An image processor's settings."""
    return SimpleNamespace(
        **{"do_resize": True, "do_center_crop": True, "do_pad": False, "size": {"shortest_edge": 32}, **values}
    )


def corners(frame: Frame, processed: tuple[int, int]) -> list[float]:
    """The box of the whole processed picture, in pixels of the user's."""
    return frame.to_original(torch.tensor([[0, 0, processed[1], processed[0]]]))[0].tolist()


@pytest.mark.parametrize(
    ("processor", "original", "expected"),
    [
        (None, None, [0, 0, 32, 32]),
        (settings(), (32, 32), [0, 0, 32, 32]),
        (settings(), (64, 64), [0, 0, 64, 64]),
        (settings(), (64, 128), [32, 0, 96, 64]),  # the middle of the long side
        (settings(), (128, 64), [0, 32, 64, 96]),
        (settings(do_center_crop=False), (64, 128), [0, 0, 128, 64]),  # squeezed
        (settings(do_resize=False), (48, 40), [4, 8, 36, 40]),
        (settings(do_pad=True), (64, 128), [0, -32, 128, 96]),
        (settings(size={"height": 64, "width": 64}), (64, 64), [16, 16, 48, 48]),
    ],
)
def test_frames(processor: Any, original: tuple[int, int] | None, expected: list[float]) -> None:
    frame = picture_frame(processor, original, (32, 32))
    assert corners(frame, (32, 32)) == pytest.approx(expected)
    assert (frame.height, frame.width) == (original or (32, 32))
