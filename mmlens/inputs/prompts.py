"""The text of each sample: questions and chat messages made prompts, with a placeholder for every picture or video."""

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

from mmlens.core.errors import InputError

#: A chat message as Hugging Face writes it: `{"role": "user", "content": "..." or [{"type": "image"}, ...]}`.
Message: TypeAlias = dict[str, Any]
Text: TypeAlias = "str | Sequence[str] | Sequence[Message] | Sequence[Sequence[Message]]"


def _is_message(item: Any) -> bool:
    return isinstance(item, dict) and "role" in item


def samples_of(text: Any) -> list[str | list[Message]]:
    """One entry per sample: a string, or a list of chat messages.

    Raises:
        InputError: if the text is neither.
    """
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


def require_side(padding_side: str) -> None:
    """Check where shorter samples are to be padded."""
    if padding_side not in ("left", "right"):
        raise InputError(f"padding_side={padding_side!r} must be 'left' or 'right'.")


def visual_items(sample: str | list[Message], kind: Literal["image", "video"]) -> list[dict[str, Any]]:
    """The image (or video) entries of a chat's messages; a string has none."""
    if isinstance(sample, str):
        return []
    contents = [message.get("content", "") for message in sample]
    return [
        item for content in contents if not isinstance(content, str) for item in content if item.get("type") == kind
    ]


def prompt_of(
    processor: Any,
    sample: str | list[Message],
    count: int,
    *,
    kind: Literal["image", "video"],
    mark: str | None,
    placeholder: str,
) -> str:
    """The text that is tokenised: chat template applied, placeholders in.

    Args:
        processor: applies the chat template, if it has one.
        sample: a question, a full prompt with placeholders, or chat messages.
        count: its number of pictures or videos.
        kind: which of both they are.
        mark: the token that stands for one in a full prompt; None if unknown.
        placeholder: what is put in front of the text for each, without a chat template.

    Raises:
        InputError: for chat messages without a template.
    """
    has_template = bool(getattr(processor, "chat_template", None))
    item = {"type": kind}
    if isinstance(sample, str):
        if mark and mark in sample:
            return sample  # the user wrote the placeholders, and so the whole prompt
        if not has_template:
            return placeholder * count + sample
        sample = [{"role": "user", "content": [*[item] * count, {"type": "text", "text": sample}]}]
    elif not has_template:
        raise InputError(
            "Chat messages need a chat template, and this processor has none; pass the prompt as a string instead."
        )
    elif count and not visual_items(sample, kind):
        first = sample[0]
        content = first["content"]
        content = [{"type": "text", "text": content}] if isinstance(content, str) else list(content)
        sample = [{**first, "content": [*[item] * count, *content]}, *sample[1:]]
    bare = [
        message
        if isinstance(message["content"], str)
        else {**message, "content": [item if part.get("type") == kind else part for part in message["content"]]}
        for message in sample
    ]
    return processor.apply_chat_template(bare, add_generation_prompt=True, tokenize=False)


def count_placeholders(prompts: list[str], counts: list[int], mark: str, what: str) -> None:
    """Check that each prompt has one placeholder per picture (or video).

    Raises:
        InputError: if one has not; names the sample.
    """
    for index, (prompt, count) in enumerate(zip(prompts, counts, strict=True)):
        found = prompt.count(mark)
        if found != count:
            raise InputError(
                f"Sample {index} has {found} placeholders {mark!r} for {count} {what}; give one {what.removesuffix('s')} per "
                "placeholder, or leave the placeholders out and they are put in."
            )
