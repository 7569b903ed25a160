"""Batches of tensors that users made: with a layout or pictures that the tensors do not tell, or embeddings in place of ids."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeAlias

import torch
from jaxtyping import Bool

from mmlens.core.errors import InputError
from mmlens.declarations.family import Family
from mmlens.declarations.structure import Config
from mmlens.inputs.batch import MultimodalBatch, make_batch
from mmlens.inputs.batch_changes import with_exchanged_pictures
from mmlens.inputs.layout import TokenLayout
from mmlens.inputs.sample_pictures import Images, pictures_by_sample

#: What says which positions are pictures: the layout of another batch, or True where the language model reads one.
LayoutLike: TypeAlias = TokenLayout | Bool[torch.Tensor, "batch pos"]

#: How far pixels may lie from what the processor makes of the pictures, on average, in standard deviations: other ways of
#: resizing stay far below, other pictures far above.
_PIXELS_OFF = 0.1


def batch_of_tensors(
    family: Family, config: Config, tensors: Mapping[str, Any], layout: LayoutLike | None = None
) -> MultimodalBatch:
    """A batch of keyword tensors, checked; its layout is worked out, or the one that is given.

    Args:
        family: whose layout rules hold.
        config: the model's configuration.
        tensors: keyword tensors, `input_ids [batch pos]` or `inputs_embeds [batch pos d_model]` among them.
        layout: which positions are pictures; needed for embeddings, which do not tell.

    Raises:
        InputError: for missing or mismatched tensors.
    """
    embeddings = tensors.get("inputs_embeds")
    if embeddings is None:
        batch = make_batch(family, config, tensors)
        return batch if layout is None else replace(batch, layout=_fitting(layout, batch.layout))
    if not isinstance(embeddings, torch.Tensor) or embeddings.ndim != 3 or not embeddings.is_floating_point():
        shape = list(getattr(embeddings, "shape", []))
        raise InputError(
            f"inputs_embeds must be numbers [batch pos d_model], found {type(embeddings).__name__} {shape}."
        )
    if tensors.get("input_ids") is not None:
        raise InputError(
            "input_ids and inputs_embeds say what the text is twice, and transformers runs on one of them: pass "
            "inputs_embeds=... with layout=batch.layout, without the ids."
        )
    if layout is None:
        raise InputError(
            "inputs_embeds do not tell which positions are pictures: pass layout=, the layout of the batch that they were made "
            "from (batch.layout), or a mask [batch pos] that is True there (all False for text alone)."
        )
    mask = tensors.get("attention_mask")
    tokens = torch.ones(embeddings.shape[:2], dtype=torch.bool) if mask is None else mask.bool().cpu()
    if tokens.shape != embeddings.shape[:2]:
        raise InputError(
            f"attention_mask is {list(tokens.shape)}, but inputs_embeds is {list(embeddings.shape)} [batch pos d_model]."
        )
    text_layout = TokenLayout(torch.zeros_like(tokens), tokens, ())
    return MultimodalBatch(
        {name: tensor for name, tensor in tensors.items() if tensor is not None}, _fitting(layout, text_layout)
    )


def _fitting(layout: LayoutLike, text_layout: TokenLayout) -> TokenLayout:
    """The layout that was given, once it is known to fit the tensors.

    Raises:
        InputError: for another shape, or pictures in padding.
    """
    result = layout if isinstance(layout, TokenLayout) else replace(text_layout, is_image=layout.cpu(), places=())
    shape, right = list(result.is_image.shape), list(text_layout.is_token.shape)
    if shape != right:
        raise InputError(f"The layout is of {shape} positions, but the tensors have {right} [batch pos].")
    if not torch.equal(result.is_token.cpu(), text_layout.is_token):
        raise InputError(
            "The layout has padding at other positions than attention_mask; pass the mask that belongs to it."
        )
    if bool((result.is_image & ~text_layout.is_token).any()):
        raise InputError("The layout has pictures in the padding.")
    return result


def with_known_pictures(
    family: Family, config: Config, processor: Any, batch: MultimodalBatch, images: Images
) -> MultimodalBatch:
    """The batch with the pictures that its pixels were made of, so that rows have places in them.

    Args:
        family: whose layout rules hold.
        config: the model's configuration.
        processor: the model's processor, which must make these pixels of them.
        batch: of tensors.
        images: as for `prepare`.

    Raises:
        InputError: if the processor makes other pixels of them.
    """
    pictures = pictures_by_sample(images, batch.size)
    other = with_exchanged_pictures(family, config, processor, batch, pictures)
    for name, pixels in batch.inputs.items():
        if pixels.is_floating_point() and name in other.inputs and name != "inputs_embeds":
            numbers, expected = pixels.float().cpu(), other.inputs[name].float().cpu()
            off = float((numbers - expected).abs().mean() / expected.std().clamp(min=1e-6))
            if off > _PIXELS_OFF:
                raise InputError(
                    f"{name} is not what the model's processor makes of these images (off by {off:.2f} standard deviations on "
                    "average): other pictures, another order, or another preprocessing, in which rows would have other places. "
                    "Give the pictures in the order of the batch, or let model.prepare(text, images=...) make it."
                )
    return replace(other, inputs=batch.inputs)
