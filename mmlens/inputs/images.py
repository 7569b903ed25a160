"""Pictures as a viewer shows them: files, PIL images and arrays made 8-bit RGB by one policy, with errors for the rest.

The policy: a picture is turned upright as its EXIF orientation says (as `transformers.image_utils.load_image` does), so that
boxes and masks are those of a viewer; 16-bit and floating values are scaled to 8 bits, not clipped; what is transparent shows
white; of an animation, the frame that PIL has in hand is read, the first of a file. Colour profiles are not applied, as in
transformers. `picture_changes` tells which of these a picture needed.
"""

import base64
import binascii
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from os import PathLike
from typing import Annotated, Any, BinaryIO, TypeAlias

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from mmlens.core.errors import InputError
from mmlens.core.files import require_file
from mmlens.core.kinds import Accepts, Must

#: A picture: a PIL image, a path, a `data:` URL, a file's bytes, an open file, what `datasets` keeps of one that is not decoded
#: (`{"bytes": ..., "path": ...}`), or an array `[height width channels]` of a grey, an RGB or an RGBA picture (uint8, uint16,
#: or floats in 0..1; channels may come first).
Picture: TypeAlias = Annotated[
    "Image.Image | str | PathLike[str] | bytes | BinaryIO | Mapping[str, bytes | str | None] | np.ndarray | torch.Tensor",
    Accepts(object),
    Must(
        "a PIL image (of a scene: its .image), a path, a file's bytes, an open file or an array",
        lambda value: is_picture(value),
        instead=True,
    ),
]

#: What is behind transparent pixels.
GROUND = (255, 255, 255)
#: Where a PIL image keeps what was changed about it.
_CHANGES = "mmlens_changes"
_ORIENTATION = 0x0112  # the EXIF tag
_CHANNELS = (3, 4, 1)  # of arrays, the likeliest first: RGB, RGBA, grey


def is_picture(value: object) -> bool:
    """Whether a value is of a kind that `load_image` reads; nothing is read."""
    if isinstance(value, Mapping):
        return bool(value) and value.keys() <= {"bytes", "path"}
    kinds = Image.Image | str | PathLike | bytes | bytearray | memoryview | np.ndarray | torch.Tensor
    return isinstance(value, kinds) or _is_open(value)


def load_image(picture: object) -> Image.Image:
    """One picture as 8-bit RGB, as a viewer shows it.

    Args:
        picture: a PIL image of any mode, a path to a file that PIL can read, its bytes, an open file, or an array.

    Returns:
        A PIL image in mode RGB.

    Raises:
        InputError: for a missing, truncated or closed file, a URL of the network, a picture without pixels or with more than
            PIL lets through, or an array with wrong axes, channels or range.
    """
    if isinstance(picture, Mapping) and picture.keys() <= {"bytes", "path"}:
        picture = picture.get("bytes") or picture.get("path")
    if isinstance(picture, Image.Image):
        name = getattr(picture, "filename", "")
        with _readable(f"The PIL image {name}" if name else "A PIL image"):
            return _shown(picture)
    if isinstance(picture, str) and picture.startswith("data:"):
        return decoded_image(picture)
    if isinstance(picture, str | PathLike):
        return _read_file(picture)
    if isinstance(picture, bytes | bytearray | memoryview):
        return _decoded(bytes(picture), "A picture in bytes")
    if _is_open(picture):
        return _decoded(held_picture(picture), _name_of(picture))
    if isinstance(picture, np.ndarray | torch.Tensor):
        return _from_array(np.asarray(picture.detach().cpu() if isinstance(picture, torch.Tensor) else picture))
    hint = " Pass its .image." if isinstance(getattr(picture, "image", None), Image.Image) else ""
    raise InputError(
        "A picture must be a PIL image, a path, a file's bytes, an open file or an array, found "
        f"{type(picture).__name__}: {picture!r:.80}.{hint}"
    )


def held_picture(picture: Any) -> Any:
    """A picture that stays what it is: what an open file or a buffer holds, as bytes; anything else as it is.

    Raises:
        InputError: for a file that is closed, cannot be read from its start, or was opened as text.
    """
    if isinstance(picture, bytearray | memoryview):
        return bytes(picture)
    if not _is_open(picture):
        return picture
    try:
        picture.seek(0)
        data = picture.read()
    except UnicodeDecodeError:
        data = ""
    except (OSError, ValueError) as error:
        raise InputError(f"{_name_of(picture)} cannot be read: {error}. Open it again, or pass its path.") from error
    if not isinstance(data, bytes):
        raise InputError(f"{_name_of(picture)} was opened as text; open it with mode 'rb'.")
    return data


def _is_open(picture: object) -> bool:
    return hasattr(picture, "read") and hasattr(picture, "seek") and not isinstance(picture, Image.Image)


def _name_of(file: object) -> str:
    return f"The open file {getattr(file, 'name', '')}".rstrip()


def decoded_image(text: str) -> Image.Image:
    """The picture in a base64 text, which may begin with `data:image/...;base64,`.

    Raises:
        InputError: if the text holds none.
    """
    try:
        data = base64.b64decode(text.rpartition(",")[2], validate=True)
    except (binascii.Error, ValueError) as error:
        raise InputError(f"A picture in base64 cannot be decoded: {error}. It begins with {text[:40]!r}.") from error
    return _decoded(data, "The picture in base64")


def _decoded(data: bytes, name: str) -> Image.Image:
    with _readable(name), Image.open(BytesIO(data)) as image:
        return _shown(image)


def picture_changes(picture: Image.Image) -> tuple[str, ...]:
    """What was changed about a picture that `load_image` read, in words; nothing for an upright 8-bit RGB picture."""
    return tuple(picture.info.get(_CHANGES, ()))


@contextmanager
def _readable(name: str) -> Iterator[None]:
    """Say of which picture PIL complains, and what to do."""
    try:
        yield
    except InputError:
        raise
    except Image.DecompressionBombError as error:
        raise InputError(
            f"{name} has more pixels than PIL lets through ({error}). Make it smaller; if you trust the file, raise "
            "PIL.Image.MAX_IMAGE_PIXELS."
        ) from error
    except UnidentifiedImageError as error:
        raise InputError(f"{name} is not a picture that PIL can read.") from error
    except (OSError, SyntaxError, ValueError, AttributeError) as error:
        # truncated or broken files (PIL's PNG reader raises SyntaxError), closed images, modes that PIL cannot convert
        raise InputError(
            f"{name} cannot be read as a picture: {error}. A truncated file has to be fetched anew; a closed image has to be "
            "opened again, or passed as its path."
        ) from error


def _read_file(path: str | PathLike[str]) -> Image.Image:
    if str(path).startswith(("http://", "https://")):
        raise InputError(f"{path} is a URL; mmlens downloads nothing. Save the picture to a file and pass its path.")
    file = require_file(path, "picture")
    with _readable(str(path)), Image.open(file) as image:
        return _shown(image)


def _shown(image: Image.Image) -> Image.Image:
    """A PIL image as a viewer shows it, in 8-bit RGB, with what was changed written down."""
    if not image.width or not image.height:
        raise InputError(f"A picture must hold pixels, found {image.width} x {image.height} (width x height).")
    changes = list(picture_changes(image))
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":  # the further pictures of a phone's photo are previews
        changes.append(f"frame {image.tell() + 1} of {frames}")
    orientation = _orientation(image)
    result = _in_eight_bits(image, changes)
    if result.has_transparency_data:
        result = result.convert("RGBA")
        if np.asarray(result.getchannel("A")).min() < 255:
            changes.append("transparency on white")
        ground = Image.new("RGBA", result.size, GROUND)
        result = Image.alpha_composite(ground, result)
    result = result.convert("RGB")
    if orientation in range(2, 9):
        # the mode may have changed and the pixels with it, but what the file says of its orientation holds
        result.info["exif"] = image.getexif().tobytes()
        result = ImageOps.exif_transpose(result)
        changes.append(f"turned upright (EXIF orientation {orientation})")
    if changes:
        result.info[_CHANGES] = tuple(changes)
    return result


def _orientation(image: Image.Image) -> int:
    """How the camera was held, as EXIF says; upright where it says nothing that can be read."""
    try:
        return image.getexif().get(_ORIENTATION, 1)
    except (SyntaxError, ValueError, struct.error, OSError):  # a broken header is no reason to refuse the pixels
        return 1


def _in_eight_bits(image: Image.Image, changes: list[str]) -> Image.Image:
    """A picture whose channels have 8 bits each: PIL would clip deeper ones, so that most of the picture is white.

    Modes I and F do not say where white is: it is the first of 255 and 65535 (of 1, 255 and 65535 for floats) that no pixel
    exceeds.
    """
    if not image.mode.startswith(("I", "F")):
        return image
    values = np.asarray(image)
    low, high = float(values.min()), float(values.max())
    whites = (65535.0,) if image.mode.startswith("I;16") else (255.0, 65535.0)
    if image.mode == "F":
        whites = (1.0, *whites)
    white = next((limit for limit in whites if low >= 0 and high <= limit), None)
    if white is None:
        raise InputError(
            f"A picture in mode {image.mode} must lie in 0..{whites[-1]:.0f}, found {low:.3g}..{high:.3g}. Scale it, e.g. "
            "to an array of floats in 0..1."
        )
    if white != 255:
        changes.append(f"scaled from 0..{white:.0f} to 0..255")
    result = Image.fromarray((values * (255.0 / white)).round().astype(np.uint8))
    result.info = {name: value for name, value in image.info.items() if name != "transparency"}
    return result


def _from_array(array: np.ndarray) -> Image.Image:
    shape = list(array.shape)
    array = array[..., None] if array.ndim == 2 else array
    ends = (1,) if len(shape) == 2 else (*shape[:1], *shape[-1:])
    channels = next((number for number in _CHANNELS if number in ends), 0)
    if array.ndim == 3 and array.shape[-1] != channels:
        array = np.moveaxis(array, 0, -1)
    if array.ndim != 3 or not channels:
        raise InputError(
            "A picture array must be [height width channels] or [channels height width] with 1 (grey), 3 (RGB) or 4 (RGBA) "
            f"channels, or [height width], found shape {shape}. Pass the pictures of a batch one by one."
        )
    if not array.size:
        raise InputError(f"A picture array must hold pixels, found shape {shape}.")
    if array.dtype == np.uint8:
        return _of_bytes(array)
    if array.dtype == np.uint16:
        return _of_bytes((array / 257.0).round(), "scaled from 0..65535 to 0..255")
    if not np.issubdtype(array.dtype, np.floating):
        raise InputError(f"A picture array must be uint8 (0..255), uint16 or floating (0..1), found {array.dtype}.")
    low, high = float(array.min()), float(array.max())
    if not (low >= 0.0 and high <= 1.0):
        raise InputError(
            f"A floating picture array must lie in 0..1, found {low:.3g}..{high:.3g}. Pass pictures before normalisation."
        )
    return _of_bytes((array * 255).round())


def _of_bytes(values: np.ndarray, *changes: str) -> Image.Image:
    """An array `[height width channels]` of values of 8 bits as a viewer shows it."""
    values = np.ascontiguousarray(values.astype(np.uint8))
    image = Image.fromarray(values[..., 0] if values.shape[-1] == 1 else values)
    image.info[_CHANGES] = changes
    return _shown(image)
