"""Pictures in, frames between the user's pixels and the encoder's."""

import base64
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.image_utils import load_image as as_transformers_reads

from mmlens.core.errors import InputError
from mmlens.inputs.images import load_image, picture_changes
from mmlens.inputs.patch_geometry import Frame, picture_frame

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 4, 3)).astype(np.uint8)


def test_every_kind_of_picture_comes_to_the_same_pixels(tmp_path: Path) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    opaque = np.dstack([PIXELS, np.full((6, 4), 255, np.uint8)])
    data = (tmp_path / "a.png").read_bytes()
    opened = BytesIO(data)
    opened.read()
    for given in (
        PIXELS,
        PIXELS.transpose(2, 0, 1),
        PIXELS.astype(np.float32) / 255,
        torch.from_numpy(PIXELS),
        torch.from_numpy(PIXELS).permute(2, 0, 1).double() / 255,
        torch.from_numpy(PIXELS / 255).requires_grad_(),
        np.asfortranarray(PIXELS),
        Image.fromarray(PIXELS),
        Image.fromarray(opaque),
        opaque,
        data,
        bytearray(data),
        opened,
        {"bytes": data, "path": "a.png"},
        {"bytes": None, "path": str(tmp_path / "a.png")},
        "data:image/png;base64," + base64.b64encode(data).decode(),
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
    for array in (PIXELS[..., 0], PIXELS[..., :1], PIXELS[..., 0] / 255):
        assert np.array_equal(np.asarray(load_image(array)), np.asarray(load_image(grey)))
    assert load_image(np.zeros((1, 6, 9), np.uint8)).size == (9, 6)
    assert load_image(torch.zeros(4, 6, 9)).getpixel((0, 0)) == (255, 255, 255)  # RGBA, transparent, on white
    assert load_image(np.zeros((3, 5, 3), np.uint8)).size == (5, 3)  # channels last where both could be meant
    assert load_image(np.zeros((3, 5, 4), np.uint8)).size == (4, 5)  # RGB is likelier than RGBA
    assert load_image(np.zeros((4, 5), np.uint8)).size == (5, 4)


def saved(image: Image.Image, form: str = "PNG", **options: Any) -> Image.Image:
    """The picture as it comes back from a file."""
    file = BytesIO()
    image.save(file, form, **options)
    return Image.open(BytesIO(file.getvalue()))


def exif(orientation: int) -> Image.Exif:
    """EXIF data that say how a camera was held."""
    data = Image.Exif()
    data[0x0112] = orientation
    return data


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_phones_photo_is_turned_as_a_viewer_and_transformers_turn_it(orientation: int, tmp_path: Path) -> None:
    photo = saved(Image.fromarray(PIXELS), exif=exif(orientation))
    photo.save(tmp_path / "photo.png", exif=exif(orientation))
    upright = np.asarray(as_transformers_reads(photo))
    assert orientation == 1 or upright.tobytes() != PIXELS.tobytes()
    for found in (load_image(photo), load_image(tmp_path / "photo.png"), load_image(load_image(photo))):
        assert np.array_equal(np.asarray(found), upright)
        turned = f"turned upright (EXIF orientation {orientation})"
        assert picture_changes(found) == (() if orientation == 1 else (turned,))


def test_deep_pictures_are_scaled_and_never_clipped_to_white(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 24).round().astype(np.uint16).reshape(4, 6)
    expected = np.repeat((ramp / 65535 * 255).round().astype(np.uint8)[..., None], 3, axis=2)
    cases = [
        saved(Image.fromarray(ramp)),
        Image.fromarray(ramp.astype(np.int32)),
        Image.fromarray((ramp / 65535).astype(np.float32)),
        np.repeat(ramp[..., None], 3, axis=2),
    ]
    for deep in cases:
        found = load_image(deep)
        assert np.abs(np.asarray(found).astype(int) - expected).max() <= 1  # halves round either way
        assert picture_changes(found)[0].startswith("scaled from 0..")
    eight = Image.fromarray(PIXELS[..., 0])
    for mode in ("I", "F"):
        assert np.array_equal(np.asarray(load_image(eight.convert(mode)))[..., 0], PIXELS[..., 0])
    with pytest.raises(InputError, match=r"mode F must lie in 0\.\.65535, found -1\.\.0"):
        load_image(Image.fromarray(np.array([[-1.0, 0.0]], np.float32)))
    with pytest.raises(InputError, match="found nan"):
        load_image(Image.fromarray(np.array([[np.nan, 0.0]], np.float32)))


def test_what_is_transparent_shows_white_and_never_its_hidden_colour() -> None:
    alpha = np.array([[255, 0, 51, 255]] * 6, np.uint8)
    clear = Image.fromarray(np.dstack([PIXELS, alpha]))
    found = np.asarray(load_image(saved(clear))).astype(int)
    share = alpha[..., None] / 255
    assert np.abs(found - (PIXELS * share + 255 * (1 - share))).max() <= 1
    assert found[:, 1].min() == 255
    assert picture_changes(load_image(clear)) == ("transparency on white",)
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 200, 100, 50])
    palette.putpixel((1, 0), 1)
    keyed = saved(palette, transparency=1)
    assert np.asarray(load_image(keyed)).tolist() == [[[10, 20, 30], [255, 255, 255]]]
    grey = Image.fromarray(np.array([[[7, 255], [7, 0]]], np.uint8))
    assert grey.mode == "LA"
    assert np.asarray(load_image(grey))[0, :, 0].tolist() == [7, 255]


@pytest.mark.parametrize("form", ["GIF", "PNG", "WEBP", "TIFF"])
def test_of_an_animation_the_first_frame_is_read_and_said(form: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if form == "WEBP" else {}
    clip = saved(frames[0], form, save_all=True, append_images=frames[1:], **options)
    found = load_image(clip)
    assert found.getpixel((3, 3)) == (255, 0, 0)
    assert picture_changes(found) == ("frame 1 of 3",)
    clip.seek(2)
    assert load_image(clip).getpixel((3, 3)) == (0, 0, 255)
    assert picture_changes(load_image(clip)) == ("frame 3 of 3",)


def test_pictures_that_cannot_be_read_say_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = BytesIO()
    Image.effect_noise((200, 200), 60).convert("RGB").save(whole, "JPEG")
    (tmp_path / "half.jpg").write_bytes(whole.getvalue()[:3000])
    with Image.open(tmp_path / "half.jpg") as opened:
        for half in (tmp_path / "half.jpg", opened):
            with pytest.raises(InputError, match=r"half\.jpg cannot be read.*truncated.*fetched anew"):
                load_image(half)
    closed = saved(Image.fromarray(PIXELS))
    closed.close()
    with pytest.raises(InputError, match=r"closed image.*opened again"):
        load_image(closed)
    file, says = (tmp_path / "half.jpg").open("rb"), r"half\.jpg was opened as text; open it with mode 'rb'"
    with file, (tmp_path / "half.jpg").open(encoding="utf-8") as text, pytest.raises(InputError, match=says):
        load_image(text)
    with pytest.raises(InputError, match=r"half\.jpg cannot be read: .*closed file\. Open it again, or pass its path"):
        load_image(file)
    for size in ((0, 0), (0, 5), (5, 0)):
        with pytest.raises(InputError, match=f"must hold pixels, found {size[0]} x {size[1]}"):
            load_image(Image.new("RGB", size))
    Image.new("RGB", (40, 40)).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(InputError, match=r"bomb\.png has more pixels than PIL lets through.*MAX_IMAGE_PIXELS"):
        load_image(tmp_path / "bomb.png")


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


def test_boxes_and_masks_of_a_turned_photo_are_those_that_a_viewer_shows(llava: Any) -> None:
    pixels = np.zeros((24, 48, 3), np.uint8)
    pixels[:8, 40:] = 255  # the top right corner, as the sensor lay
    photo = saved(Image.fromarray(pixels), exif=exif(6))  # to be turned clockwise: bottom right for a viewer
    batch = llava.model.prepare("describe the image", images=photo)
    (shown,) = batch.images[0]
    assert shown.size == (24, 48)
    assert np.asarray(shown)[40:, 16:].min() == 255
    assert batch.layout.place().size == (48, 24)
    twin = llava.model.prepare("describe the image", images=shown.copy())
    assert torch.equal(batch["pixel_values"], twin["pixel_values"])
    assert batch.picture_changes == {(0, 0): ("turned upright (EXIF orientation 6)",)}
    assert "picture (0, 0): turned upright (EXIF orientation 6)" in repr(batch)
    with pytest.raises(InputError, match=r"mask is \[24, 48\], but the picture is \[height=48 width=24\]"):
        batch.layout.patches_of_mask(torch.ones(24, 48, dtype=torch.bool))


def test_a_broken_exif_header_is_no_reason_to_refuse_the_pixels() -> None:
    file = BytesIO()
    Image.fromarray(PIXELS).save(file, "PNG", exif=b"Exif\x00\x00II*\x00\xff\xff\xff")
    found = load_image(Image.open(BytesIO(file.getvalue())))
    assert np.array_equal(np.asarray(found), PIXELS)
