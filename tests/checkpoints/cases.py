"""What people ask: questions, chats of several kinds, several pictures or none; and what transformers makes of them."""

import json
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

QUESTION = "What color is the big red circle? Is there a dog?"
SHORT = "describe the image"
REFERENCES = Path(__file__).with_name("references.json")


def picture(seed: int = 0, height: int = 480, width: int = 640) -> Image.Image:
    """A picture of random blocks."""
    blocks = np.random.default_rng(seed).integers(0, 256, (6, 8, 3)).astype(np.uint8)
    return Image.fromarray(blocks).resize((width, height), Image.Resampling.NEAREST)


def image(seed: int = 0) -> dict[str, Any]:
    """The part of a message that is a picture."""
    return {"type": "image", "image": picture(seed)}


def text(words: str) -> dict[str, Any]:
    """The part of a message that is text."""
    return {"type": "text", "text": words}


def user(*parts: dict[str, Any]) -> dict[str, Any]:
    """A turn of the user."""
    return {"role": "user", "content": list(parts)}


def assistant(words: str) -> dict[str, Any]:
    """A turn of the model."""
    return {"role": "assistant", "content": [text(words)]}


SYSTEM = {"role": "system", "content": [text("You are a helpful assistant. Answer in a word.")]}

#: By name, the chats of a batch, as transformers takes them.
CASES: dict[str, list[list[dict[str, Any]]]] = {
    "question": [[user(image(), text(QUESTION))]],
    "system": [[SYSTEM, user(image(), text(QUESTION))]],
    "turns": [[user(image(), text(QUESTION)), assistant("Blue. There is a man."), user(text("Where is the moon?"))]],
    "prefix": [[user(image(), text(SHORT)), assistant("An image of")]],
    "several": [[user(image(0), image(1), text(QUESTION))]],
    "none": [[user(text(QUESTION))]],
    "batch": [[user(image(0), text(QUESTION))], [user(image(1), text(SHORT))]],
    "mixed": [[user(image(0), text(SHORT))], [user(text(QUESTION))]],
}


def packed(ids: Sequence[int]) -> list[int | list[int]]:
    """Token ids in short: runs as `[id, length]`."""
    runs = [(key, len(list(group))) for key, group in groupby(ids)]
    return [key if length == 1 else [key, length] for key, length in runs]


def references() -> dict[str, dict[str, dict[str, Any]]]:
    """By layout and case, what transformers made where torchvision is installed: see `make_references`."""
    return json.loads(REFERENCES.read_text(encoding="utf-8"))
