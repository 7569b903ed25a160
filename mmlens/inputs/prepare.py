"""From what a user has (a question, a picture, chat messages) to one batch."""

import warnings
from typing import Any, Literal

import torch
from PIL import Image

from mmlens.core.errors import InputError
from mmlens.declarations.family import Family
from mmlens.declarations.structure import Config
from mmlens.inputs.batch import MultimodalBatch, make_batch
from mmlens.inputs.batch_changes import PER_POSITION
from mmlens.inputs.plain_text import holds_hidden, picture_tokens, reading_hidden, revealed
from mmlens.inputs.prompts import Prompter, Text, count_placeholders, require_side, samples_of
from mmlens.inputs.sample_pictures import Images, pictures_of_samples


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
    pictures = pictures_of_samples(images, samples)
    mark = getattr(processor, "image_token", None)
    mark = getattr(mark, "content", mark)
    placeholders = picture_tokens(processor.tokenizer, config)
    if family.writes_placeholders:
        prompter = Prompter(processor, "image", None, "", (*placeholders, *([mark] if mark else [])))
    else:
        prompter = Prompter(processor, "image", mark, family.placeholder, placeholders)
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
        for other in (name, *(f"{beside}{suffix}" for suffix in PER_POSITION)):
            if other in tensors:
                tensors[other] = tensors[other][torch.arange(len(order))[:, None], order]
    return tensors


def _require_a_picture_each(family: Family, pictures: list[list[Image.Image]]) -> None:
    """Check that no text comes without a picture."""
    missing = [i for i, sample in enumerate(pictures) if not sample]
    if missing:
        raise InputError(f"The family {family.name} needs a picture with every text; samples {missing} have none.")
