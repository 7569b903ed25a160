"""Kinds of arguments: types with the conditions that public functions check.

    def top(self, k: Count = 10) -> Units: ...

A plain `int`, `float`, `bool` or tensor needs no kind: `mmlens.core.contract.checked` takes an `int` for a whole number and no
bool, a `float` for a finite number, a tensor for one without NaN, infinity and imaginary parts.
"""

from collections.abc import Callable, Collection, Mapping, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeAlias, TypeVar

#: Under which the arguments that a `With` is given hold the name of the function that was called.
CALL = "()"

T = TypeVar("T")
K = TypeVar("K")
V = TypeVar("V")


@dataclass(frozen=True)
class Must:
    """A condition beside the type, put into `Annotated`.

    Attributes:
        words: what must hold, as they go on from the type: "a whole number" + "at least 1".
        test: whether it holds for a value of the type.
        instead: whether the words stand in place of those of the type.
    """

    words: str
    test: Callable[[Any], bool]
    instead: bool = False


@dataclass(frozen=True)
class OneOf:
    """Words that are known at run time alone (a world's nouns, what is registered), put into `Annotated[str, ...]`.

    Attributes:
        words: those that there are, read when a function that takes one is first called.
    """

    words: Collection[str]


@dataclass(frozen=True)
class Accepts:
    """What callers may give, in place of the annotation: beside a `With` that converts it, or where what is right is decided by
    the code that reads it (`Accepts(object)`: pictures).

    Attributes:
        hint: the annotation of what may be given.
    """

    hint: Any


@dataclass(frozen=True)
class Gaps:
    """Numbers among which NaN stands for one that is not known, put into `Annotated`."""


@dataclass(frozen=True)
class With:
    """A condition that other arguments decide, put into `Annotated`: hook points of a model, units of it, a batch for it.

    Attributes:
        resolve: from all arguments by name, this one and its own name to the value that the function gets; raises an
            InputError for what cannot be used. Where none is called `"model"`, it is the method's object, or
            that object's model.
    """

    resolve: Callable[[Mapping[str, Any], Any, str], Any]


def _not_empty(value: Sized) -> bool:
    return not isinstance(value, Sized) or len(value) > 0


def _is_path(value: str) -> bool:
    return bool(value.strip()) and "\0" not in value


#: How many of something: 1, 2, ...
Count: TypeAlias = Annotated[int, Must("at least 1", lambda value: 1 <= value < 2**31)]
#: How many of something, where none is fine: 0, 1, 2, ...
CountOrZero: TypeAlias = Annotated[int, Must("at least 0", lambda value: 0 <= value < 2**31)]
#: Which one, from 0.
Index: TypeAlias = Annotated[int, Must("at least 0", lambda value: 0 <= value < 2**31)]
#: What random numbers start from.
Seed: TypeAlias = Annotated[int, Must("from 0 to 2**63 - 1", lambda value: 0 <= value < 2**63)]
#: A number of a set's scenes, or of what else there may be a million of.
UpToAMillion: TypeAlias = Annotated[int, Must("from 0 to 1,000,000", lambda value: 0 <= value <= 1_000_000)]
#: A number above 0.
Positive: TypeAlias = Annotated[float, Must("above 0", lambda value: value > 0)]
#: A number that is not negative.
NonNegative: TypeAlias = Annotated[float, Must("at least 0", lambda value: value >= 0)]
#: A number from 0 to 1.
Fraction: TypeAlias = Annotated[float, Must("from 0 to 1", lambda value: 0 <= value <= 1)]
#: A number between 0 and 1, both excluded: the level of an interval.
Level: TypeAlias = Annotated[float, Must("between 0 and 1, both excluded", lambda value: 0 < value < 1)]
#: A number from 0 to 100.
Percentile: TypeAlias = Annotated[float, Must("from 0 to 100", lambda value: 0 <= value <= 100)]
#: A string that says something.
Text: TypeAlias = Annotated[str, Must("a non-empty string", lambda value: bool(value.strip()), instead=True)]
#: Where a file or folder is.
PathLike: TypeAlias = Annotated[str | Path, Must("a path", lambda value: _is_path(str(value)), instead=True)]
#: A list with something in it.
Several: TypeAlias = Annotated[Sequence[T], Must("non-empty", _not_empty)]
#: A list without anything twice.
Distinct: TypeAlias = Annotated[Sequence[T], Must("without repetition", lambda value: len(set(value)) == len(value))]
#: A list with something in it, and nothing twice.
SeveralDistinct: TypeAlias = Annotated[
    Sequence[T], Must("non-empty, without repetition", lambda value: len(value) > 0 and len(set(value)) == len(value))
]
#: A mapping with something in it.
Named: TypeAlias = Annotated[Mapping[K, V], Must("non-empty", _not_empty)]
