"""From what a user has (a question, a picture, chat messages) to one batch."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, TypeAlias

import torch
from PIL import Image

from mmlens.core.errors import InputError
from mmlens.declarations.family import Family
from mmlens.declarations.structure import Config
from mmlens.inputs.batch import MultimodalBatch, make_batch
from mmlens.inputs.images import Picture, load_image
from mmlens.inputs.prompts import Text, count_placeholders, prompt_of, require_side, samples_of, visual_items

Images: TypeAlias = "Picture | Sequence[Picture] | Sequence[Sequence[Picture]] | None"


def prepare_batch(
    family: Family,
    config: Config,
    processor: Any,
    text: Text,
    images: Images = None,
    *,
    padding_side: Literal["left", "right"] = "left",
) -> MultimodalBatch:
    """Make a batch; see `HookedMultimodal.prepare`."""
    require_side(padding_side)
    samples = samples_of(text)
    pictures = _pictures(images, samples)
    mark = getattr(processor, "image_token", None)
    mark = getattr(mark, "content", mark)
    prompts = [
        prompt_of(processor, sample, len(own), kind="image", mark=mark, placeholder=family.placeholder)
        for sample, own in zip(samples, pictures, strict=True)
    ]
    if family.writes_placeholders:
        _require_a_picture_each(family, pictures)
    else:
        token = mark or processor.tokenizer.convert_ids_to_tokens(config.image_token_id)
        count_placeholders(prompts, [len(own) for own in pictures], token, "pictures")
    flat = [picture for sample in pictures for picture in sample]
    shown = (pictures if family.nested_pictures else flat) if flat else None
    own_side = "right" if family.pads_right else padding_side
    tensors = processor(text=prompts, images=shown, return_tensors="pt", padding=True, padding_side=own_side)
    tensors = _padded({family.renamed.get(name, name): tensor for name, tensor in tensors.items()}, padding_side)
    if not family.token_kinds:
        tensors.pop("token_type_ids", None)
    for name in ("labels", *family.for_counting):  # some processors make targets for training
        tensors.pop(name, None)
    if family.extra_inputs is not None:
        tensors = family.extra_inputs(config, tensors) | tensors
    return make_batch(
        family,
        config,
        tensors,
        processor=processor.image_processor,
        images=tuple(map(tuple, pictures)),
        prompts=tuple(prompts),
    )


#: Tensors `[batch pos ...]` that come with the token ids.
_PER_POSITION = (
    *("input_ids", "token_type_ids", "mm_token_type_ids", "image_embeds_position_mask"),
    *("cross_attention_mask", "image_attention_mask"),
)


def _padded(tensors: dict[str, Any], side: Literal["left", "right"]) -> dict[str, Any]:
    """Padding on the asked side of the prompt, and on the right of any text that a part of the model reads besides.

    InstructBLIP's processor pads the text and puts the image tokens in front of that, so padding comes to lie between
    the two, where generation counts positions differently from a forward pass; and it pads the Q-Former's text on the
    prompt's side, although the Q-Former numbers its positions from the left, padding included.
    """
    masks = [name for name, tensor in tensors.items() if name.endswith("attention_mask") and tensor.ndim == 2]
    for name in masks:
        mask = tensors[name]
        first = -1 if side == "left" and name == "attention_mask" else 1
        order = (first * (1 - mask.long())).argsort(dim=1, stable=True)
        beside = name.removesuffix("attention_mask")
        for other in (name, *(f"{beside}{each}" for each in _PER_POSITION)):
            if other in tensors:
                tensors[other] = tensors[other][torch.arange(len(order))[:, None], order]
    return tensors


def _pictures(images: Any, samples: list[Any]) -> list[list[Image.Image]]:
    """The pictures of each sample, read."""
    count = len(samples)
    if images is None:
        return [
            [load_image(item["image"]) for item in visual_items(sample, "image") if "image" in item]
            for sample in samples
        ]
    if not isinstance(images, list | tuple):
        images = [images]
    nested = [isinstance(item, list | tuple) for item in images]
    if any(nested) and not all(nested):
        raise InputError(
            "images mixes pictures and lists of pictures; give one list per sample, or one picture per sample."
        )
    if count == 1 and not any(nested):
        images = [images]
    if len(images) != count:
        raise InputError(
            f"{count} texts came with {len(images)} pictures (or lists of pictures); give as many. For one picture and "
            "several texts repeat the picture; for a text without a picture give an empty list."
        )
    return [[load_image(p) for p in (item if isinstance(item, list | tuple) else [item])] for item in images]


def _require_a_picture_each(family: Family, pictures: list[list[Image.Image]]) -> None:
    """Check that no text comes without a picture."""
    missing = [i for i, sample in enumerate(pictures) if not sample]
    if missing:
        raise InputError(f"The family {family.name} needs a picture with every text; samples {missing} have none.")


def with_pictures(
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
    flat = [picture for sample in pictures for picture in sample]
    images = pictures if family.nested_pictures else flat
    made = processor.image_processor(images=images, return_tensors="pt", **family.image_options(config))
    if isinstance(made, torch.Tensor):  # some return the pixels alone, one picture after another
        shape = batch["pixel_values"].shape
        made = {"pixel_values": made.reshape(shape) if made.numel() == shape.numel() else made}
    made = dict(made)
    # a mask of patches may have the name of the text's
    made = {name: tensor for name, tensor in made.items() if name in batch.inputs and name != "attention_mask"}
    for name, tensor in made.items():
        old = batch.inputs[name]
        if tensor.shape != old.shape or (not tensor.is_floating_point() and not torch.equal(tensor, old.cpu())):
            raise InputError(
                f"The new pictures have another layout: {name} is {list(tensor.shape)} instead of {list(old.shape)}. Resize them "
                "to the old ones' size."
            )
    tensors = {**batch.inputs, **{name: tensor.to(batch["input_ids"].device) for name, tensor in made.items()}}
    return make_batch(
        family,
        config,
        tensors,
        processor=processor.image_processor,
        images=tuple(map(tuple, pictures)),
        prompts=batch.prompts,
    )


def with_tokens(family: Family, config: Config, batch: MultimodalBatch, tokens: torch.Tensor) -> MultimodalBatch:
    """The batch with further tokens `[batch step]` at its end, as if they had been generated.

    In an encoder-decoder model they follow what the decoder has written, and the prompt stays.

    Raises:
        InputError: for another number of samples, or padding on the right.
    """
    ids = batch["input_ids"]
    tokens = torch.as_tensor(tokens).to(ids)
    if tokens.ndim != 2 or len(tokens) != len(ids):
        raise InputError(f"tokens must be [batch={len(ids)} step], found {list(tokens.shape)}.")
    if not batch.layout.is_token[:, -1].all():
        raise InputError(
            "Tokens cannot follow padding: some samples are padded on the right; prepare(..., padding_side='left')."
        )
    inputs = dict(batch.inputs)
    if "decoder_input_ids" in inputs:
        inputs["decoder_input_ids"] = torch.cat([inputs["decoder_input_ids"], tokens], dim=1)
        return replace(batch, inputs=inputs)
    inputs["input_ids"] = torch.cat([ids, tokens], dim=1)
    mask = inputs.get("attention_mask", torch.ones_like(ids))
    inputs["attention_mask"] = torch.cat([mask, torch.ones_like(tokens)], dim=1)
    if family.extra_inputs is not None and batch.layout.places:
        inputs |= family.extra_inputs(config, inputs)
    layout = make_batch(family, config, inputs).layout
    # the pictures' positions stay, and so do their frames, which tensors alone do not tell
    return replace(batch, inputs=inputs, layout=replace(layout, places=batch.layout.places))
