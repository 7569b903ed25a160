"""Reading pictures: files, PIL images and arrays, with clear errors for everything else."""

from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from mmlens.core.errors import InputError
from mmlens.core.files import require_file

#: A picture: a PIL image, a path, or an array `[height width 3]` (uint8, or floats in 0..1; channels may come first).
Picture: TypeAlias = "Image.Image | str | Path | np.ndarray | torch.Tensor"


def load_image(picture: Any) -> Image.Image:
    """Read one picture as RGB.

    Args:
        picture: a PIL image of any mode, a path to a file that PIL can read, or an array.

    Returns:
        A PIL image in mode RGB.

    Raises:
        InputError: for a missing or unreadable file, a URL, or an array with wrong axes, channels or range.
    """
    if isinstance(picture, Image.Image):
        return picture.convert("RGB")
    if isinstance(picture, str | Path):
        return _read_file(picture)
    if isinstance(picture, np.ndarray | torch.Tensor):
        return _from_array(np.asarray(picture.detach().cpu() if isinstance(picture, torch.Tensor) else picture))
    raise InputError(
        f"A picture must be a PIL image, a path or an array, found {type(picture).__name__}: {picture!r:.80}."
    )


def _read_file(path: str | Path) -> Image.Image:
    if str(path).startswith(("http://", "https://")):
        raise InputError(f"{path} is a URL; mmlens downloads nothing. Save the picture to a file and pass its path.")
    file = require_file(path, "picture")
    try:
        with Image.open(file) as image:
            return image.convert("RGB")
    except UnidentifiedImageError as error:
        raise InputError(f"{path} is not a picture that PIL can read.") from error
    except (OSError, SyntaxError) as error:  # truncated or broken files; PIL's PNG reader raises SyntaxError
        raise InputError(f"{path} cannot be read as a picture: {error}.") from error


def _from_array(array: np.ndarray) -> Image.Image:
    shape = list(array.shape)
    if array.ndim == 3 and array.shape[-1] != 3 and array.shape[0] == 3:
        array = np.moveaxis(array, 0, -1)
    if array.ndim != 3 or array.shape[-1] != 3:
        raise InputError(
            f"A picture array must be [height width 3] or [3 height width], found shape {shape}. "
            "Drop an alpha channel, or repeat a grey one three times."
        )
    if not array.size:
        raise InputError(f"A picture array must hold pixels, found shape {shape}.")
    if array.dtype == np.uint8:
        return Image.fromarray(np.ascontiguousarray(array))
    if not np.issubdtype(array.dtype, np.floating):
        raise InputError(f"A picture array must be uint8 (0..255) or floating (0..1), found {array.dtype}.")
    low, high = float(array.min()), float(array.max())
    if not (low >= 0.0 and high <= 1.0):
        raise InputError(
            f"A floating picture array must lie in 0..1, found {low:.3g}..{high:.3g}. Pass pictures before normalisation."
        )
    return Image.fromarray((array * 255).round().astype(np.uint8))
