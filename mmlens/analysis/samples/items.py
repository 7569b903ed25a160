"""Items of dataset files: the keys that a sample is read from, by their names in common data sets."""

from collections.abc import Mapping, Sequence
from typing import Any

from mmlens.core.errors import InputError
from mmlens.core.names import nearest

#: What a sample is made of, and the keys that data sets have for it; the first is ours.
KEYS: dict[str, tuple[str, ...]] = {
    "images": ("images", "image", "image_path"),
    "prompt": ("prompt", "question", "text", "instruction"),
    "conversation": ("conversations", "messages"),
    "answer": ("answer", "multiple_choice_answer"),
    "references": ("references", "answers", "captions"),
    "caption": ("caption",),
    "types": ("types",),
    "boxes": ("boxes",),
    "attributes": ("attributes",),
    "regions": ("regions",),
    "writing": ("writing",),
    "name": ("id", "name", "question_id"),
    "image_id": ("image_id",),
}
_FIELDS = {key: field for field, keys in KEYS.items() for key in keys}
#: Keys whose values are kinds of the sample, by the key.
TYPES = ("question_type", "answer_type")
#: Keys that say nothing of a sample.
_BESIDE = frozenset(("width", "height", "split", "source", "dataset", "license"))


def read_item(item: Mapping[str, Any], number: int) -> dict[str, Any]:
    """What an item says of a sample, by our names.

    Args:
        item: as a data set has it.
        number: which item it is, for messages.

    Returns:
        `images` (always) and the other names of `KEYS`, as far as they are there.

    Raises:
        InputError: for a key that nobody knows, two keys for one thing, no picture, or a conversation of several questions.
    """
    unknown = [key for key in item if key not in _FIELDS and key not in _BESIDE and key not in TYPES]
    if unknown:
        sources = [
            f"{key!r}" + (f" (nearest: {close[0]!r})" if (close := nearest(str(key), list(_FIELDS), count=1)) else "")
            for key in unknown
        ]
        raise InputError(
            f"Sample {number} has keys that mean nothing here: {', '.join(sources)}. Known are {_known()}; rename or drop the "
            "others."
        )
    fields: dict[str, Any] = {}
    for key, value in item.items():
        field = _FIELDS.get(key)
        if field is None or (value is None and field != "images"):
            continue
        if field in fields:
            keys = [name for name in item if _FIELDS.get(name) == field]
            raise InputError(
                f"Sample {number} has several keys for its {field}: {', '.join(map(repr, keys))}; keep one."
            )
        fields[field] = value
    if "images" not in fields:
        raise InputError(
            f"Sample {number} has the keys {', '.join(map(str, item))}; it needs 'image' (or 'images'), None for text alone."
        )
    if "conversation" in fields:
        fields = {**_exchange(fields.pop("conversation"), number), **fields}
    if "answer" in fields:
        fields["answer"] = texts_of(fields["answer"])
    if "references" in fields:
        texts = texts_of(fields["references"])
        fields["references"] = (texts,) if isinstance(texts, str) else texts
        if "answers" in item:  # where the data set does not say which of them is the answer, each counts
            fields.setdefault("answer", texts)
    if types := {key: str(item[key]) for key in TYPES if item.get(key) is not None}:
        fields["types"] = {**fields.get("types", {}), **types}
    return fields


def _known() -> str:
    return "; ".join(f"{field}: {', '.join(keys)}" for field, keys in KEYS.items())


def texts_of(value: Any) -> str | tuple[str, ...]:
    """One text, or those of several people, as strings or as VQAv2 has them."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(str(item["answer"] if isinstance(item, Mapping) else item) for item in value)
    return str(value)


def _exchange(turns: Any, number: int) -> dict[str, Any]:
    """The question and the answer of a conversation, as LLaVA's data sets have them (`from`, `value`) or as chats.

    Raises:
        InputError: if it is not one question, or one question and its answer.
    """
    pairs = [(turn.get("from", turn.get("role")), turn.get("value", turn.get("content"))) for turn in turns]
    roles = [{"human": "user", "gpt": "assistant"}.get(role, role) for role, _ in pairs]
    texts = [text if isinstance(text, str) else _text_of(text) for _, text in pairs]
    if roles not in (["user"], ["user", "assistant"]):
        raise InputError(
            f"The conversation of sample {number} has the turns {roles}; a sample is one question of the user, and its answer if "
            "it is known. Make a sample of each question."
        )
    question = texts[0].replace("<image>", "").strip()
    return {"prompt": question, **({"answer": texts[1]} if len(texts) > 1 else {})}


def _text_of(parts: Any) -> str:
    """The text of a message's parts."""
    return " ".join(part["text"] for part in parts or () if isinstance(part, Mapping) and part.get("type") == "text")
