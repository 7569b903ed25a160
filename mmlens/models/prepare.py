"""From what a user has (a question, a picture, chat messages) to one batch."""

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

from PIL import Image

from mmlens.core.errors import InputError
from mmlens.models.batch import MultimodalBatch, make_batch
from mmlens.models.family import Config, Family
from mmlens.models.images import Picture, load_image

#: A chat message as Hugging Face writes it: `{"role": "user", "content": "..." or [{"type": "image"}, ...]}`.
Message: TypeAlias = dict[str, Any]
Text: TypeAlias = "str | Sequence[str] | Sequence[Message] | Sequence[Sequence[Message]]"
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
    if padding_side not in ("left", "right"):
        raise InputError(f"padding_side={padding_side!r} must be 'left' or 'right'.")
    samples = _samples(text)
    pictures = _pictures(images, samples)
    prompts = [_prompt(family, processor, sample, p) for sample, p in zip(samples, pictures, strict=True)]
    _count_placeholders(family, processor, config, prompts, pictures)
    flat = [picture for sample in pictures for picture in sample]
    tensors = processor(
        text=prompts, images=flat or None, return_tensors="pt", padding=True, padding_side=padding_side
    )
    tensors = dict(tensors)
    tensors.pop("token_type_ids", None)
    sizes = [[(picture.height, picture.width) for picture in sample] for sample in pictures]
    return make_batch(
        family,
        config,
        tensors,
        sizes=sizes,
        processor=processor.image_processor,
        images=tuple(map(tuple, pictures)),
        prompts=tuple(prompts),
    )


def _is_message(item: Any) -> bool:
    return isinstance(item, dict) and "role" in item


def _samples(text: Any) -> list[str | list[Message]]:
    """One entry per sample: a string, or a list of chat messages."""
    if isinstance(text, str):
        return [text]
    if isinstance(text, Sequence) and len(text):
        if all(_is_message(item) for item in text):
            return [list(text)]
        if all(isinstance(item, str) for item in text):
            return list(text)
        if all(isinstance(item, Sequence) and len(item) and all(map(_is_message, item)) for item in text):
            return [list(item) for item in text]
    raise InputError(
        "text must be a string, a list of strings, chat messages ({'role': ..., 'content': ...}), or a list of chats; "
        f"found {type(text).__name__}: {text!r:.80}."
    )


def _pictures(images: Any, samples: list[Any]) -> list[list[Image.Image]]:
    """The pictures of each sample, read."""
    count = len(samples)
    if images is None:
        return [[load_image(item["image"]) for item in _image_items(sample) if "image" in item] for sample in samples]
    if not isinstance(images, list | tuple):
        images = [images]
    nested = [isinstance(item, list | tuple) for item in images]
    if any(nested) and not all(nested):
        raise InputError("images mixes pictures and lists of pictures; give one list per sample, or one picture per sample.")
    if count == 1 and not any(nested):
        images = [images]
    if len(images) != count:
        raise InputError(
            f"{count} texts came with {len(images)} pictures (or lists of pictures); give as many. For one picture and "
            "several texts repeat the picture; for a text without a picture give an empty list."
        )
    return [[load_image(p) for p in (item if isinstance(item, list | tuple) else [item])] for item in images]


def _image_items(sample: Any) -> list[dict[str, Any]]:
    """The image entries of a chat's messages."""
    if isinstance(sample, str):
        return []
    contents = [message.get("content", "") for message in sample]
    return [item for content in contents if not isinstance(content, str) for item in content if item.get("type") == "image"]


def _prompt(family: Family, processor: Any, sample: str | list[Message], pictures: list[Image.Image]) -> str:
    """The text that is tokenised: chat template applied, placeholders in."""
    token = getattr(processor, "image_token", None)
    token = getattr(token, "content", token)
    has_template = bool(getattr(processor, "chat_template", None))
    if isinstance(sample, str):
        if token and token in sample:
            return sample  # the user wrote the placeholders, and so the whole prompt
        if not has_template:
            return (family.placeholder * len(pictures)) + sample
        sample = [{"role": "user", "content": [*({"type": "image"} for _ in pictures), {"type": "text", "text": sample}]}]
    elif not has_template:
        raise InputError(
            "Chat messages need a chat template, and this processor has none; pass the prompt as a string instead."
        )
    elif pictures and not _image_items(sample):
        first = sample[0]
        content = first["content"]
        content = [{"type": "text", "text": content}] if isinstance(content, str) else list(content)
        sample = [{**first, "content": [*({"type": "image"} for _ in pictures), *content]}, *sample[1:]]
    bare = [
        {**message, "content": [{"type": "image"} if item.get("type") == "image" else item for item in message["content"]]}
        if not isinstance(message["content"], str)
        else message
        for message in sample
    ]
    return processor.apply_chat_template(bare, add_generation_prompt=True, tokenize=False)


def _count_placeholders(
    family: Family, processor: Any, config: Config, prompts: list[str], pictures: list[list[Image.Image]]
) -> None:
    """Each prompt must have one placeholder per picture."""
    if family.writes_placeholders:
        missing = [i for i, sample in enumerate(pictures) if not sample]
        if missing:
            raise InputError(f"The family {family.name} needs a picture with every text; samples {missing} have none.")
        return
    token = getattr(processor, "image_token", None) or processor.tokenizer.convert_ids_to_tokens(config.image_token_id)
    token = getattr(token, "content", token)
    for index, (prompt, sample) in enumerate(zip(prompts, pictures, strict=True)):
        found = prompt.count(token)
        if found != len(sample):
            raise InputError(
                f"Sample {index} has {found} placeholders {token!r} for {len(sample)} pictures; give one picture per "
                "placeholder, or leave the placeholders out and they are put in."
            )
