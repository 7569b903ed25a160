"""Judges of arguments: each tests a value, converts harmless variants of it, and says what would be right.

Classes, protocols, callables and every other annotation without parts are left to beartype. What is made of parts is taken
apart here, because beartype looks at one random item of a container, and one wrong head among twelve must be found each time.

At the public functions a plain `int` is a whole number and no bool, a plain `float` a finite number, a tensor finite and not
complex; numpy's and torch's scalars become Python numbers, and one-dimensional arrays lists where a list of numbers is meant.
"""

import operator
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from beartype.door import is_bearable
from beartype.roar import BeartypeException
from jaxtyping import AbstractArray

from mmlens.core.wording import a_or_an, is_array, is_tensor, nearest_words, short

#: Stands for a value that cannot be used.
REFUSED = object()
#: Numbers beyond float32 turn into infinity where they meet activations.
_LARGEST = float(np.finfo(np.float32).max)


class Judge:
    """What one annotation accepts; `words` complete "must be ..."."""

    words: str

    def accepts(self, value: Any) -> bool:
        """Whether the value can be used as it is."""
        raise NotImplementedError

    def convert(self, value: Any) -> Any:
        """A refused value in a form that can be used, or `REFUSED`."""
        return REFUSED

    def problem(self, name: str, value: Any) -> str:
        """What is wrong with a value that was refused, without a full stop."""
        return f"{name}={short(value)} must be {self.words}"


class Anything(Judge):
    """Accepts every value."""

    words = "anything"

    def accepts(self, value: Any) -> bool:
        """True."""
        return True


class Whole(Judge):
    """Accepts whole numbers, and no bool."""

    words = "a whole number"

    def accepts(self, value: Any) -> bool:
        """Whether it is an int."""
        return type(value) is int

    def convert(self, value: Any) -> Any:
        """The int of a numpy or torch scalar."""
        if isinstance(value, bool | np.bool_) or (is_array(value) and (value.ndim or "bool" in str(value.dtype))):
            return REFUSED
        try:
            return operator.index(value)
        except TypeError:
            return REFUSED


class Number(Judge):
    """Accepts finite real numbers, and no bool.

    Args:
        finite: whether NaN and infinity are refused.
    """

    def __init__(self, finite: bool):
        self.finite = finite
        self.words = "a finite number" if finite else "a number"

    def accepts(self, value: Any) -> bool:
        """Whether it is a float or an int of float32's range."""
        if type(value) is not float and type(value) is not int:
            return False
        return not self.finite or -_LARGEST <= value <= _LARGEST

    def convert(self, value: Any) -> Any:
        """The float of a numpy or torch scalar."""
        if not isinstance(value, np.generic | float) and not (is_array(value) and not value.ndim):
            return REFUSED
        if is_tensor(value) and value.requires_grad:
            return REFUSED
        plain = value.item() if hasattr(value, "item") else value
        return plain if self.accepts(plain) else REFUSED


class Flag(Judge):
    """Accepts True and False."""

    words = "True or False"

    def accepts(self, value: Any) -> bool:
        """Whether it is a bool."""
        return type(value) is bool

    def convert(self, value: Any) -> Any:
        """The bool of numpy's."""
        return bool(value) if isinstance(value, np.bool_) else REFUSED


class Nothing(Judge):
    """Accepts None."""

    words = "None"

    def accepts(self, value: Any) -> bool:
        """Whether it is None."""
        return value is None


class Instance(Judge):
    """Accepts instances of a class, and whatever else beartype accepts for an annotation without parts.

    Args:
        hint: the annotation. A class may say in `must_be` what would be right in place of its name.
    """

    def __init__(self, hint: Any):
        self.hint = hint
        name = getattr(hint, "__name__", None) or str(hint)
        self.words = getattr(hint, "must_be", None) or _COMMON.get(hint) or f"{a_or_an(name)} {name}"
        self._protocol = bool(getattr(hint, "_is_protocol", False))
        self._members: list[str] = []
        if self._protocol and not getattr(hint, "_is_runtime_protocol", False):
            self._members = [name for name in {*vars(hint), *getattr(hint, "__annotations__", {})} if name[0] != "_"]

    def accepts(self, value: Any) -> bool:
        """Whether beartype accepts it; a class is no instance of a protocol, though it has the same methods, and
        no function, though it can be called."""
        if isinstance(value, type) and (self._protocol or self.hint is Callable):
            return False
        if self._members:
            # on the class first: a property is not to be worked out
            return all(hasattr(type(value), name) or hasattr(value, name) for name in self._members)
        try:
            return isinstance(value, self.hint) if isinstance(self.hint, type) else is_bearable(value, self.hint)
        except (TypeError, BeartypeException):  # an annotation that cannot be tested at run time
            return True


class Subclass(Judge):
    """Accepts a class and those derived from it.

    Args:
        base: the class.
    """

    def __init__(self, base: type):
        self.base = base
        self.words = f"{base.__name__} or a class derived from it"

    def accepts(self, value: Any) -> bool:
        """Whether it is such a class."""
        return isinstance(value, type) and issubclass(value, self.base)


class Array(Judge):
    """Accepts tensors or numpy arrays: of the kinds and number of axes that a jaxtyping annotation names, finite, not complex.

    Args:
        hint: `torch.Tensor`, `numpy.ndarray`, or a jaxtyping annotation of one.
        finite: whether NaN and infinity are refused.
    """

    def __init__(self, hint: Any, finite: bool):
        self.hint = hint
        self.finite = finite
        has_shape = issubclass(hint, AbstractArray)
        base = hint.array_type if has_shape else hint
        noun = {"Tensor": "tensor", "ndarray": "numpy array"}.get(base.__name__, base.__name__)
        kind = f"{hint.__name__.split('[')[0].lower()} " if has_shape else ""
        kind = {"float ": "floating ", "int ": "integer ", "shaped ": ""}.get(kind, kind)
        self.words = f"{a_or_an(kind or noun)} {kind}{noun}" + (f" [{hint.dim_str}]" if has_shape else "")

    def accepts(self, value: Any) -> bool:
        """Whether kind, axes and values are right."""
        return isinstance(value, self.hint) and _fault(value, self.finite) is None

    def problem(self, name: str, value: Any) -> str:
        """Says what is wrong with the values where the shape is right."""
        fault = _fault(value, self.finite) if isinstance(value, self.hint) else None
        return super().problem(name, value) if fault is None else f"{name}={short(value)} {fault}"


class Choice(Judge):
    """Accepts some words.

    Args:
        known: the words.
    """

    def __init__(self, words: Sequence[Any]):
        self.known = words
        quotes = [repr(word) for word in words]
        self.words = quotes[0] if len(quotes) == 1 else f"{', '.join(quotes[:-1])} or {quotes[-1]}"

    def accepts(self, value: Any) -> bool:
        """Whether it is one of the words."""
        return isinstance(value, str | int | None) and any(
            value == word and type(value) is type(word) for word in self.known
        )

    def problem(self, name: str, value: Any) -> str:
        """Adds the nearest word."""
        return super().problem(name, value) + nearest_words(
            value, [word for word in self.known if isinstance(word, str)]
        )


def _fault(value: Any, finite: bool) -> str | None:
    """What is wrong with the numbers of an array."""
    if "complex" in str(value.dtype):
        return "is complex; take its real part or its size"
    if not finite:
        return None
    if isinstance(value, np.ndarray):
        right = value.dtype.kind != "f" or bool(np.isfinite(value).all())
    elif not value.is_floating_point() or not value.numel() or value.is_meta or value.element_size() < 2:
        return None
    else:
        low, high = value.detach().aminmax()  # one pass, no copy; NaN is passed on
        right = bool(low.isfinite() & high.isfinite())
    return None if right else "holds NaN or infinity; all its values must be finite"


#: Words for classes whose names say little.
_COMMON: dict[Any, str] = {
    str: "a string",
    Path: "a path",
    Callable: "a function",
    bytes: "bytes",
    dict: "a dictionary",
}
