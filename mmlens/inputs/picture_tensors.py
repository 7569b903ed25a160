"""Tensors that carry pictures into a model: whether they and the prompt's placeholders come together."""

from collections.abc import Mapping
from typing import Any

import torch

from mmlens.core.errors import InputError
from mmlens.core.names import Part
from mmlens.declarations.family import Family
from mmlens.declarations.structure import Config

#: Tensors that carry pictures into a model.
PICTURE_TENSORS = ("pixel_values", "flattened_patches", "pixel_values_videos", "image_embeds")


def picture_positions(family: Family, config: Config, tensors: Mapping[str, Any]) -> torch.Tensor:
    """True where the prompt holds a picture or a video, `[batch pos]`."""
    is_picture = family.is_image(config, tensors)
    token = None if family.videos is None else getattr(config, "video_token_id", None)
    return is_picture if token is None else is_picture | (tensors["input_ids"] == token)


def require_pictures(family: Family, config: Config, tensors: Mapping[str, Any]) -> None:
    """Check that placeholders and pictures come together.

    Args:
        family: says which positions are placeholders.
        config: the model's configuration.
        tensors: keyword tensors.

    Raises:
        InputError: for image tokens without pixels, or pixels without image tokens.
    """
    if family.score is not None:
        _require_both(tensors)
        return
    if tensors.get("input_ids") is None:
        return
    tokens = int(picture_positions(family, config, tensors).sum())
    image_id = getattr(config, "image_token_id", None)
    id_note = "" if image_id is None else f" (id {image_id})"
    tensor_names = [name for name in PICTURE_TENSORS if tensors.get(name) is not None]
    if {"pixel_values", "pixel_values_videos"} <= set(tensor_names):
        raise InputError(
            "Pictures (pixel_values) and videos (pixel_values_videos) came in one batch: the tower would run once for each, and "
            "a hook point means one run. Put them into batches of their own."
        )
    if tokens and not tensor_names:
        raise InputError(
            f"The text holds {tokens} image tokens{id_note}, but no picture came with it: pass "
            "pixel_values, or prepare(text, images=...). Running would answer without looking. (Tools that pass tokens and "
            "nothing else get the picture through model.bind(batch).)"
        )
    if tensor_names and not tokens:
        raise InputError(
            f"{', '.join(tensor_names)} came with text that has no image token{id_note}, so no picture would be "
            "read: put a placeholder into the text, or use prepare(text, images=...)."
        )


def require_running(tensors: Mapping[str, Any], part: Part, name: str) -> None:
    """Check that a part of the model runs on keyword tensors: without a picture, the vision encoder and the projector do not.

    Args:
        tensors: keyword tensors.
        part: which part.
        name: what is wanted of it, for the message.

    Raises:
        InputError: if it does not.
    """
    if part == "language" or any(tensors.get(tensor_name) is not None for tensor_name in PICTURE_TENSORS):
        return
    raise InputError(
        f"{name} does not run: the batch holds no picture (none of {', '.join(PICTURE_TENSORS)}), so that the vision encoder "
        "and the projector have nothing to do."
    )


def _require_both(tensors: Mapping[str, Any]) -> None:
    """Check that both towers of a dual encoder have something to read.

    Raises:
        InputError: if there are no pictures, or no texts.
    """
    for name, missing, other in (("pixel_values", "picture", "text"), ("input_ids", "text", "picture")):
        if tensors.get(name) is None:
            raise InputError(
                f"A dual encoder scores pictures and texts, and no {missing} came with the {other}: pass {name}, or "
                "prepare(texts, images=[...])."
            )
