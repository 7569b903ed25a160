"""From what a user has (a question, a picture, chat messages) to one batch."""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal, TypeAlias

import torch
from PIL import Image

from mmlens.core.errors import InputError
from mmlens.core.kinds import Accepts
from mmlens.declarations.family import Family
from mmlens.declarations.structure import Config
from mmlens.inputs.batch import MultimodalBatch, make_batch
from mmlens.inputs.images import Picture, decoded_image, load_image
from mmlens.inputs.plain_text import holds_hidden, picture_tokens, reading_hidden, revealed
from mmlens.inputs.prompts import Message, Prompter, Text, count_placeholders, require_side, samples_of, visual_items

Images: TypeAlias = Annotated["Picture | Sequence[Picture] | Sequence[Sequence[Picture]] | None", Accepts(object)]


def prepare_batch(
    family: Family,
    config: Config,
    processor: Any,
    text: Text,
    images: Images = None,
    *,
    padding_side: Literal["left", "right"] | None = None,
) -> MultimodalBatch:
    """Make a batch; see `HookedMultimodal.prepare`."""
    padding_side = side_for(family, padding_side)
    samples = samples_of(text)
    pictures = _pictures(images, samples)
    mark = getattr(processor, "image_token", None)
    mark = getattr(mark, "content", mark)
    reserved = picture_tokens(processor.tokenizer, config)
    if family.writes_placeholders:
        prompter = Prompter(processor, "image", None, "", (*reserved, *([mark] if mark else [])))
    else:
        prompter = Prompter(processor, "image", mark, family.placeholder, reserved)
    prompts = [
        prompter.prompt(sample, len(sample_pictures)) for sample, sample_pictures in zip(samples, pictures, strict=True)
    ]
    if family.writes_placeholders:
        _require_a_picture_each(family, pictures)
    else:
        token = mark or processor.tokenizer.convert_ids_to_tokens(config.image_token_id)
        count_placeholders(prompts, [len(sample_pictures) for sample_pictures in pictures], token, "pictures")
    own_side = "right" if family.pads_right else padding_side
    tensors = _tensors(family, processor, prompts, pictures, own_side)
    tensors = _padded({family.renamed.get(name, name): tensor for name, tensor in tensors.items()}, padding_side)
    if not family.token_kinds:
        tensors.pop("token_type_ids", None)
    for name in ("labels", *family.for_counting):  # some processors make targets for training
        tensors.pop(name, None)
    if family.extra_inputs is not None:
        tensors = family.extra_inputs(config, tensors) | tensors
    batch = make_batch(
        family,
        config,
        tensors,
        processor=processor.image_processor,
        images=tuple(map(tuple, pictures)),
        prompts=tuple(map(revealed, prompts)),
    )
    remark_length(config, batch)
    return batch


def side_for(family: Family, padding_side: Literal["left", "right"] | None) -> Literal["left", "right"]:
    """Where shorter samples are padded: on the left, so that new tokens can follow, or as the family needs.

    Raises:
        InputError: for a side that is none, or that the family cannot be right with.
    """
    if padding_side is None:
        return "left" if family.left_padding is None else "right"
    require_side(padding_side)
    if padding_side == "left" and family.left_padding is not None:
        raise InputError(f"padding_side='left' was asked for, but {family.left_padding} Leave padding_side out.")
    return padding_side


def remark_length(config: Config, batch: MultimodalBatch) -> None:
    """Warn of samples that are longer than what the language model was made for."""
    limit = getattr(getattr(config, "text_config", config), "max_position_embeddings", None)
    lengths = batch.layout.is_token.sum(1).tolist()
    if isinstance(limit, int) and max(lengths) > limit:
        longer = {sample: length for sample, length in enumerate(lengths) if length > limit}
        warnings.warn(
            f"The model was made for {limit} positions (max_position_embeddings), and samples take more ({longer}): what it says "
            "of them means little. Shorten the text, or give fewer or smaller pictures.",
            stacklevel=4,
        )


def _tensors(
    family: Family, processor: Any, prompts: list[str], pictures: list[list[Image.Image]], side: str
) -> dict[str, Any]:
    """What the processor makes of prompts and pictures.

    Raises:
        InputError: if it refuses them.
    """
    flat = [picture for sample in pictures for picture in sample]
    images = (pictures if family.nested_pictures else flat) if flat else None
    prompts, options = special_tokens_once(processor.tokenizer, prompts)
    reader = reading_hidden(processor) if any(map(holds_hidden, prompts)) else processor
    return dict(reader(text=prompts, images=images, return_tensors="pt", padding=True, padding_side=side, **options))


def special_tokens_once(tokenizer: Any, prompts: list[str]) -> tuple[list[str], dict[str, bool]]:
    """Prompts, and the option that keeps a tokenizer from putting a second beginning in front of those that have one."""
    bos = getattr(tokenizer, "bos_token", None)
    if not bos or not any(prompt.startswith(bos) for prompt in prompts):
        return prompts, {}
    begins = tokenizer("")["input_ids"][:1] == [tokenizer.bos_token_id]
    texts = [prompt if prompt.startswith(bos) or not begins else bos + prompt for prompt in prompts]
    return texts, {"add_special_tokens": False}


#: Tensors `[batch pos ...]` that come with the token ids.
_PER_POSITION = (
    *("input_ids", "token_type_ids", "mm_token_type_ids", "image_embeds_position_mask"),
    *("moe_mm_token_type_ids", "cross_attention_mask", "image_attention_mask"),
)
#: What belongs to the tokens of a prompt, and not to its pictures.
OF_PROMPT = ("attention_mask", *_PER_POSITION)
#: Those of them in which new tokens are as the last one: they look at the same pictures.
_CONTINUED = ("cross_attention_mask", "image_attention_mask")


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
        for other in (name, *(f"{beside}{suffix}" for suffix in _PER_POSITION)):
            if other in tensors:
                tensors[other] = tensors[other][torch.arange(len(order))[:, None], order]
    return tensors


def _pictures(images: Any, samples: list[str | list[Message]]) -> list[list[Image.Image]]:
    """The pictures of each sample, read: those of its chat, and those given besides in the places that it leaves open."""
    by_sample = _by_sample(images, len(samples))
    return [
        _pictures_of(sample, sample_pictures, number)
        for number, (sample, sample_pictures) in enumerate(zip(samples, by_sample, strict=True))
    ]


def pictures_by_sample(images: Images, count: int) -> list[list[Image.Image]]:
    """The pictures of each of so many samples, read; see `HookedMultimodal.prepare` for how they are given.

    Raises:
        InputError: for another number, or pictures that cannot be read.
    """
    return [[load_image(picture) for picture in sample] for sample in _by_sample(images, count)]


def _by_sample(images: Any, count: int) -> list[list[Any]]:
    """What was given as pictures, by sample."""
    if images is None:
        return [[] for _ in range(count)]
    if not isinstance(images, list | tuple):
        images = [images]
    is_list = [isinstance(item, list | tuple) for item in images]
    if any(is_list) and not all(kind or item is None for kind, item in zip(is_list, images, strict=True)):
        raise InputError(
            "images mixes pictures and lists of pictures; give one list per sample, or one picture per sample."
        )
    if count == 1 and not any(is_list):
        images = [images]
    if len(images) != count:
        raise InputError(
            f"{count} texts came with {len(images)} pictures (or lists of pictures); give as many. For one picture and "
            "several texts repeat the picture; for a text without a picture give an empty list."
        )
    return [list(item) if isinstance(item, list | tuple) else [] if item is None else [item] for item in images]


#: Under which a part of a message holds its picture.
_PICTURE_KEYS = ("image", "path", "url", "base64")


def _pictures_of(sample: str | list[Message], pictures: list[Any], number: int) -> list[Image.Image]:
    """The pictures of a sample in the order of its text.

    Raises:
        InputError: if it is not clear where those that were given belong.
    """
    items = visual_items(sample, "image")
    if not items:
        return [load_image(picture) for picture in pictures]
    keys = [next((key for key in _PICTURE_KEYS if item.get(key) is not None), None) for item in items]
    places = keys.count(None)
    if places != len(pictures):
        raise InputError(
            f"The chat of sample {number} has {len(items)} picture(s), {len(items) - places} of them with one of their own, and "
            f"images= gives {len(pictures)}; give one for each {{'type': 'image'}} that has none, which says where it belongs."
        )
    rest = iter(pictures)
    return [_read(item, key) if key else load_image(next(rest)) for item, key in zip(items, keys, strict=True)]


def _read(item: dict[str, Any], key: str) -> Image.Image:
    """The picture that a part of a message holds."""
    value = item[key]
    if key == "base64" or (isinstance(value, str) and value.startswith("data:")):
        return decoded_image(value)
    return load_image(value)


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
    prompt = {
        name: tensor[:, : -batch.written or None] if name in OF_PROMPT else tensor for name, tensor in tensors.items()
    }
    made = make_batch(
        family,
        config,
        prompt,
        processor=processor.image_processor,
        images=tuple(map(tuple, pictures)),
        prompts=batch.prompts,
    )
    layout = replace(batch.layout, places=made.layout.places)
    return replace(
        batch,
        inputs=tensors,
        layout=layout,
        images=made.images,
        videos=(),
        carried=(),
    )


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
        elif name in _PER_POSITION and tensor.shape[:2] == ids.shape:
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
