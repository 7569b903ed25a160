"""Methods and properties of a class that one of its parts carries out, with the part's own signature and docstring."""

import functools
from collections.abc import Callable
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar, cast

P = ParamSpec("P")
S = TypeVar("S")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class Attribute(Protocol, Generic[R_co]):
    """An attribute that is read, for annotations."""

    def __get__(self, instance: object, owner: type | None = None) -> R_co: ...


def method_of(part: Callable[[Any], S], method: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[Any, P], R]:
    """A method that a part carries out.

    Args:
        part: makes the part.
        method: of the part's class.
    """

    @functools.wraps(method)
    def through(self: object, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return method(part(self), *args, **kwargs)

    return through


def property_of(part: Callable[[Any], S], prop: Callable[[S], R]) -> Attribute[R]:
    """A property that a part works out.

    Args:
        part: makes the part.
        prop: the property of the part's class.
    """
    original = cast(property, prop)
    return cast(Attribute[R], property(lambda self: original.__get__(part(self)), doc=original.__doc__))
