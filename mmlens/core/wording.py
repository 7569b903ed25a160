"""Words of messages: a value in few characters, the nearest of the right words."""

import difflib
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np


def is_tensor(value: Any) -> bool:
    """Whether it is a torch tensor; torch is not imported for it."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def is_array(value: Any) -> bool:
    """Whether it is a tensor or a numpy array."""
    return isinstance(value, np.ndarray) or is_tensor(value)


def short(value: Any) -> str:
    """A value in few characters: what was given, as messages show it."""
    if is_array(value):
        kind = "tensor" if is_tensor(value) else "array"
        return f"<{kind} {str(value.dtype).removeprefix('torch.')} {list(value.shape)}>"
    if isinstance(value, list | tuple) and len(value) <= 8:
        ends = "[]" if isinstance(value, list) else "()"
        inner = ", ".join(map(short, value)) + ("," if isinstance(value, tuple) and len(value) == 1 else "")
        return f"{ends[0]}{inner}{ends[1]}"
    if isinstance(value, str | bytes | int | float | complex | slice | range | Path | np.generic) or value is None:
        text = repr(value)
        return text if len(text) <= 60 else f"{text[:57]}..."
    if isinstance(value, Collection):
        return f"<{type(value).__name__} of {len(value)}>"
    if isinstance(value, type):
        return f"<class {value.__name__}>"
    name = getattr(value, "__name__", None)
    return f"<{type(value).__name__}{'' if name is None else f' {name}'}>"


def nearest_words(value: Any, words: Sequence[str]) -> str:
    """`; nearest: ...` for a word that is almost one of the known ones."""
    close = difflib.get_close_matches(value, words, n=1, cutoff=0.6) if isinstance(value, str) else []
    return f"; nearest: {close[0]!r}" if close and len(words) > 1 else ""


def a_or_an(word: str) -> str:
    """The article of a word."""
    return "an" if word[:1].lower() in "aeiou" and not word.lower().startswith("uni") else "a"
