"""A batch with other pictures, or with further tokens at its end."""

from dataclasses import replace
from typing import Any

import torch
from PIL import Image

from mmlens.core.errors import InputError
from mmlens.declarations.family import Family
from mmlens.declarations.structure import Config
from mmlens.inputs.batch import MultimodalBatch, make_batch

#: Tensors `[batch pos ...]` that come with the token ids.
PER_POSITION = (
    *("input_ids", "token_type_ids", "mm_token_type_ids", "image_embeds_position_mask"),
    *("moe_mm_token_type_ids", "cross_attention_mask", "image_attention_mask"),
)
#: What belongs to the tokens of a prompt, and not to its pictures.
OF_PROMPT = ("attention_mask", *PER_POSITION)
#: Those of them in which new tokens are as the last one: they look at the same pictures.
_CONTINUED = ("cross_attention_mask", "image_attention_mask")


def with_exchanged_pictures(
    family: Family, config: Config, processor: Any, batch: MultimodalBatch, pictures: list[list[Image.Image]]
) -> MultimodalBatch:
    """The same tokens with other pictures, which must take exactly the places of the old ones.

    Raises:
        InputError: if there are more or fewer pictures than before, or one has another layout.
    """
    if batch.videos:
        raise InputError(
            "The batch holds videos, whose frames cannot be exchanged like pictures; prepare another batch."
        )
    before = [sum(places.sample == sample for places in batch.layout.places) for sample in range(batch.size)]
    after = [len(sample) for sample in pictures]
    if before != after:
        raise InputError(f"The batch has {before} pictures per sample, the new ones are {after}; give as many.")
    pixels = _pixels(family, config, processor, batch, pictures)
    for name, tensor in pixels.items():
        old = batch.inputs[name]
        if tensor.shape != old.shape or (not tensor.is_floating_point() and not torch.equal(tensor, old.cpu())):
            raise InputError(
                f"The new pictures have another layout: {name} is {list(tensor.shape)} instead of {list(old.shape)}. Resize them "
                "to the old ones' size."
            )
    tensors = {**batch.inputs, **{name: tensor.to(batch["input_ids"].device) for name, tensor in pixels.items()}}
    prompt = {
        name: tensor[:, : -batch.written or None] if name in OF_PROMPT else tensor for name, tensor in tensors.items()
    }
    images = tuple(map(tuple, pictures))
    other = make_batch(
        family, config, prompt, processor=processor.image_processor, images=images, prompts=batch.prompts
    )
    layout = replace(batch.layout, places=other.layout.places)
    return replace(batch, inputs=tensors, layout=layout, images=images, videos=(), carried=())


def _pixels(
    family: Family, config: Config, processor: Any, batch: MultimodalBatch, pictures: list[list[Image.Image]]
) -> dict[str, torch.Tensor]:
    """The tensors that an image processor makes of pictures, of those that a batch has."""
    images = pictures if family.nested_pictures else [picture for sample in pictures for picture in sample]
    tensors = processor.image_processor(images=images, return_tensors="pt", **family.image_options(config))
    if isinstance(tensors, torch.Tensor):  # some return the pixels alone, one picture after another
        shape = batch["pixel_values"].shape
        tensors = {"pixel_values": tensors.reshape(shape) if tensors.numel() == shape.numel() else tensors}
    # a mask of patches may have the name of the text's
    return {name: tensor for name, tensor in tensors.items() if name in batch.inputs and name != "attention_mask"}


def with_tokens(
    family: Family, config: Config, batch: MultimodalBatch, tokens: torch.Tensor, *, as_new: bool = False
) -> MultimodalBatch:
    """The batch with further tokens `[batch step]` at its end, as if they had been generated.

    With `as_new` rules of positions count them as new tokens, else as part of what is run.

    In an encoder-decoder model they follow what the decoder has written, and the prompt stays. What came with the prompt stays
    as it is: which tokens hold pictures, and of which kind tokens are. New ones are text.

    Raises:
        InputError: for another number of samples, or padding on the right.
    """
    ids = batch["input_ids"]
    tokens = torch.as_tensor(tokens).to(ids)
    if tokens.ndim != 2 or len(tokens) != len(ids):
        raise InputError(f"tokens must be [batch={len(ids)} step], found {list(tokens.shape)}.")
    inputs = dict(batch.inputs)
    n_forced = batch.n_forced + tokens.shape[1] if as_new else 0
    if family.extra_inputs is not None and batch.layout.places and not batch.written:
        inputs = family.extra_inputs(config, inputs) | inputs  # raw tensors may come without
    if "decoder_input_ids" in inputs:
        inputs["decoder_input_ids"] = torch.cat([inputs["decoder_input_ids"], tokens], dim=1)
        return replace(batch, inputs=inputs, n_forced=n_forced)
    if not batch.layout.is_token[:, -1].all():
        raise InputError(f"Tokens cannot follow padding: some samples are padded on the right; {continuing(family)}")
    mask = inputs.get("attention_mask", torch.ones_like(ids))
    inputs["attention_mask"] = torch.cat([mask, torch.ones_like(tokens)], dim=1)
    for name, tensor in list(inputs.items()):
        if name == "input_ids":
            inputs[name] = torch.cat([ids, tokens], dim=1)
        elif name in PER_POSITION and tensor.shape[:2] == ids.shape:
            last = tensor[:, -1:].expand(-1, tokens.shape[1], *tensor.shape[2:])
            kind = last if name in _CONTINUED else torch.full_like(last, family.written_kind)
            inputs[name] = torch.cat([tensor, kind], dim=1)
    layout = batch.layout
    is_image = torch.cat([layout.is_image, torch.zeros_like(tokens, dtype=torch.bool, device="cpu")], dim=1)
    is_token = torch.cat([layout.is_token, torch.ones_like(tokens, dtype=torch.bool, device="cpu")], dim=1)
    layout = replace(layout, is_image=is_image, is_token=is_token)
    return replace(batch, inputs=inputs, layout=layout, written=batch.written + tokens.shape[1], n_forced=n_forced)


def continuing(family: Family) -> str:
    """What to do where new tokens cannot follow a sample that is padded on the right."""
    if family.left_padding is None:
        return "prepare(..., padding_side='left')."
    return f"and {family.left_padding} Take samples of one length, or one at a time."
