"""The text of each sample: questions and chat messages made prompts, with a placeholder for every picture or video.

A question or a chat is text: what reads like a control token in it is no token. A string is a whole prompt, control tokens and
all, if it has the marks of the chat template's turns, or, where there is no template, placeholders for pictures.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias

from jinja2 import TemplateError

from mmlens.core.errors import InputError
from mmlens.core.kinds import Accepts
from mmlens.inputs.plain_text import control_tokens, hidden, revealed

#: A chat message as Hugging Face writes it: `{"role": "user", "content": "..." or [{"type": "image"}, ...]}`.
Message: TypeAlias = dict[str, Any]
Text: TypeAlias = Annotated["str | Sequence[str] | Sequence[Message] | Sequence[Sequence[Message]]", Accepts(object)]
Kind: TypeAlias = Literal["image", "video"]


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
            return [[_normalised(message) for message in text]]
        if all(isinstance(item, str) for item in text):
            return list(text)
        chats = [isinstance(item, Sequence) and len(item) and all(map(_is_message, item)) for item in text]
        if all(chat or isinstance(item, str) for chat, item in zip(chats, text, strict=True)):
            return [item if isinstance(item, str) else [_normalised(message) for message in item] for item in text]
    raise InputError(
        "text must be a string, a list of strings, chat messages ({'role': ..., 'content': ...}), or a list of chats; "
        f"found {type(text).__name__}: {text!r:.80}."
    )


def _normalised(message: Message) -> Message:
    """A message whose content is a string or a list of parts, pictures in transformers' own form.

    Raises:
        InputError: for another content.
    """
    content = message.get("content")
    if isinstance(content, str):
        return message
    if not isinstance(content, list | tuple) or not all(isinstance(part, str | dict) for part in content):
        raise InputError(
            f"A message's content must be a string or a list of parts ({{'type': 'text', 'text': ...}}, {{'type': 'image'}}), "
            f"found {type(content).__name__} in the turn of {message['role']!r}: {content!r:.80}."
        )
    return {**message, "content": [_part(part) for part in content]}


def _part(part: str | dict[str, Any]) -> dict[str, Any]:
    """A part of a message; pictures in OpenAI's form as transformers takes them."""
    if isinstance(part, str):
        return {"type": "text", "text": part}
    if part.get("type") == "image_url" and "image_url" in part:
        address = part["image_url"]
        return {"type": "image", "url": address.get("url", "") if isinstance(address, dict) else address}
    if "type" not in part and len(part) == 1:
        return {"type": next(iter(part)), **part}
    return part


def require_side(padding_side: str) -> None:
    """Check where shorter samples are to be padded."""
    if padding_side not in ("left", "right"):
        raise InputError(f"padding_side={padding_side!r} must be 'left' or 'right'.")


def visual_items(sample: str | list[Message], kind: Kind) -> list[dict[str, Any]]:
    """The image (or video) entries of a chat's messages; a string has none."""
    if isinstance(sample, str):
        return []
    return [part for message in sample for part in _parts(message) if part.get("type") == kind]


def _parts(message: Message) -> list[dict[str, Any]]:
    """The parts of a message."""
    content = message["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


@dataclass(frozen=True)
class Prompter:
    """How the prompts of a processor are written.

    Attributes:
        processor: applies the chat template, if it or its tokenizer has one.
        kind: whether pictures or videos come with the text.
        mark: the token that stands for one of them in a full prompt; None if unknown.
        placeholder: what is put in front of the text for each, without a chat template.
        reserved: further strings that are text wherever a user writes them, as the processor puts such tokens in by itself.
    """

    processor: Any
    kind: Kind
    mark: str | None
    placeholder: str
    reserved: tuple[str, ...] = ()

    @property
    def _renderer(self) -> Any | None:
        """What applies the chat template: the processor, or its tokenizer where only that has one."""
        for holder in (self.processor, getattr(self.processor, "tokenizer", None)):
            if getattr(holder, "chat_template", None):
                return holder
        return None

    def prompt(self, sample: str | list[Message], count: int) -> str:
        """The text that is tokenised: chat template applied, placeholders in, what only reads like a token hidden.

        Args:
            sample: a question, a full prompt with placeholders, or chat messages.
            count: its number of pictures or videos.

        Raises:
            InputError: for chat messages without a template, or that the template refuses or loses.
        """
        if isinstance(sample, str):
            if self._is_whole(sample):
                return sample
            if self._renderer is None:
                return self.placeholder * count + self._as_text(sample)
            sample = [{"role": "user", "content": self._question(sample, count)}]
        elif self._renderer is None:
            raise InputError(
                "Chat messages need a chat template, and this processor has none; pass the prompt as a string instead."
            )
        return self._rendered(self._with_items(sample, count))

    def _is_whole(self, text: str) -> bool:
        """Whether a string is a whole prompt, rather than a question that the template goes around."""
        has_marks = self.mark is not None and self.mark in text
        if self._renderer is None:
            return has_marks
        word = "QUESTION"
        try:
            frame = self._rendered([{"role": "user", "content": [{"type": self.kind}, _words(word)]}])
        except InputError:  # a template that takes no such question goes around none
            return has_marks
        before, _, after = frame.partition(word)
        opening = before.partition(self.mark)[0] if self.mark else before
        bos = getattr(self.processor.tokenizer, "bos_token", None) or ""
        opening, closing = opening.strip().rpartition("\n")[2].removeprefix(bos).strip(), after.strip()
        if (closing and text.rstrip().endswith(closing)) or (opening and text.removeprefix(bos).startswith(opening)):
            return True
        return has_marks and any(part and part in text for part in (opening, closing))

    def _question(self, text: str, count: int) -> list[dict[str, Any]]:
        """The parts of a question, in which a mark that stands apart is the place of a picture, and any other is text."""
        item = {"type": self.kind}
        if self.mark and count and text.count(self.mark) == count:
            lines = text.strip().split("\n")
            apart = text.strip().startswith(self.mark) or text.strip().endswith(self.mark) or self.mark in lines
            if count > 1 or apart:
                pieces = [piece.strip("\n") for piece in text.split(self.mark)]
                return [
                    part
                    for number, piece in enumerate(pieces)
                    for part in ([item] * bool(number) + [_words(piece)] * bool(piece.strip()))
                ]
        return [*[item] * count, _words(text)]

    def _with_items(self, messages: list[Message], count: int) -> list[Message]:
        """The messages with bare items for pictures, put into the first turn of the user if there are none; text as text.

        Raises:
            InputError: if there is no such turn.
        """
        item = {"type": self.kind}
        place = None
        if count and not visual_items(messages, self.kind):
            turns = [number for number, message in enumerate(messages) if message["role"] == "user"]
            if not turns:
                roles = [message["role"] for message in messages]
                raise InputError(
                    f"The pictures belong into a turn of the user, and the chat has none (roles {roles}); add one, or put "
                    f"{{'type': '{self.kind}'}} into the content of the turn that they belong to."
                )
            place = turns[0]
        result = []
        for number, message in enumerate(messages):
            content = message["content"]
            if number == place or not isinstance(content, str):
                items = [item] * count if number == place else []
                content = [*items, *(self._bare(part) for part in _parts(message))]
            else:
                content = self._as_text(content)
            result.append({**message, "content": content})
        return result

    def _bare(self, part: dict[str, Any]) -> dict[str, Any]:
        """A part without its picture, or with its text as text."""
        if part.get("type") == self.kind:
            return {"type": self.kind}
        return {**part, "text": self._as_text(part["text"])} if isinstance(part.get("text"), str) else part

    def _as_text(self, text: str) -> str:
        template = getattr(self._renderer, "chat_template", None)
        source = template if isinstance(template, str) else "".join((template or {}).values())
        marks = (*self.reserved, *([self.mark] if self.mark else []))
        return hidden(text, control_tokens(self.processor, source, marks))

    def _rendered(self, messages: list[Message]) -> str:
        """The prompt of a chat: as it is, else with contents as lists of parts, else as strings.

        Templates read contents in one form or in both; of one that they do not read, the text is lost without a word.

        Raises:
            InputError: if the template refuses the chat, or loses text in every form.
        """
        texts = [part["text"] for message in messages for part in _parts(message) if part.get("type") == "text"]
        items = len(visual_items(messages, self.kind))
        failure: Exception | None = None
        missing: list[str] = texts
        for form in self._forms(messages):
            try:
                prompt = self._apply(form)
            except (TemplateError, TypeError, ValueError) as error:
                failure = failure or error
                if (
                    type(error) is TemplateError
                ):  # raised by the template itself; other forms would pass by what it asks for
                    break
                continue
            missing = [text for text in texts if text.strip() not in prompt]
            if not missing and (self.mark is None or prompt.count(self.mark) == items):
                return prompt
        if failure is not None:
            raise InputError(
                f"The chat template refuses this chat (roles {[message['role'] for message in messages]}): {failure}"
            ) from failure
        left_out = [repr(revealed(text)[:60]) for text in missing] or [f"the {self.kind}s"]
        raise InputError(
            f"The chat template leaves out a part of the chat: {', '.join(left_out)}. Pass the whole prompt as a string, or a "
            "chat in the form that the template reads."
        )

    def _forms(self, messages: list[Message]) -> Iterator[list[Message]]:
        """The messages as they are, with contents as lists of parts, and as strings with placeholders."""
        yield messages
        if any(isinstance(message["content"], str) for message in messages):
            yield [{**message, "content": _parts(message)} for message in messages]
        if any(not isinstance(message["content"], str) for message in messages):
            forms = {self.kind: self.placeholder}
            yield [
                {
                    **message,
                    "content": "".join(
                        part.get("text") or forms.get(part.get("type", ""), "") for part in _parts(message)
                    ),
                }
                for message in messages
            ]

    def _apply(self, messages: list[Message]) -> str:
        """The prompt of a chat; a last turn of the assistant is left open, for the model to go on."""
        renderer: Any = self._renderer
        if messages[-1]["role"] == "assistant":
            return renderer.apply_chat_template(messages, tokenize=False, continue_final_message=True)
        return renderer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


def _words(text: str) -> dict[str, Any]:
    """The part of a message that is text."""
    return {"type": "text", "text": text}


def count_placeholders(prompts: list[str], counts: list[int], mark: str, kind: str) -> None:
    """Check that each prompt has one placeholder per picture (or video).

    Raises:
        InputError: if one has not; names the sample.
    """
    for index, (prompt, count) in enumerate(zip(prompts, counts, strict=True)):
        n_marks = prompt.count(mark)
        if n_marks != count:
            raise InputError(
                f"Sample {index} has {n_marks} placeholders {mark!r} for {count} {kind}; give one {kind.removesuffix('s')} per "
                "placeholder, or leave the placeholders out and they are put in."
            )
