"""Signatures as `help()` and `?` show them: annotations by the names that the source gives them."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

#: The return annotation that a signature has, where no other is asked for.
_SAME = object()


class Written:
    """An annotation in words.

    Args:
        text: as it is shown.
        annotation: as it is.
    """

    def __init__(self, text: str, annotation: Any):
        self.text, self.annotation = text, annotation

    def __repr__(self) -> str:
        return self.text


class ReadableSignature(inspect.Signature):
    """The signature of a checked function, worked out when it is read.

    Args:
        function: the function behind the check.
    """

    __slots__ = ("__dict__", "_function")

    def __init__(self, function: Callable[..., Any]):
        self._function = function

    @cached_property
    def _whole(self) -> inspect.Signature:
        plain = inspect.signature(self._function)
        names = {id(value): name for name, value in inspect.unwrap(self._function).__globals__.items()}

        def shown(annotation: Any) -> Any:
            return annotation if annotation is plain.empty else Written(_words(annotation, names), annotation)

        parameters = [p.replace(annotation=shown(p.annotation)) for p in plain.parameters.values()]
        return plain.replace(parameters=parameters, return_annotation=shown(plain.return_annotation))

    @property
    def parameters(self) -> Mapping[str, inspect.Parameter]:  # type: ignore[override]
        """By name, with annotations in words."""
        return self._whole.parameters

    @property
    def return_annotation(self) -> Any:
        """In words."""
        return self._whole.return_annotation

    def __reduce__(self) -> str | tuple[Any, ...]:
        return self._whole.__reduce__()

    def replace(  # type: ignore[override]
        self, *, parameters: Sequence[inspect.Parameter] | None = None, return_annotation: Any = _SAME
    ) -> inspect.Signature:
        """A plain signature with other parameters."""
        returned = self.return_annotation if return_annotation is _SAME else return_annotation
        return inspect.Signature(
            list(self.parameters.values()) if parameters is None else parameters, return_annotation=returned
        )


def _words(annotation: Any, names: Mapping[int, str]) -> str:
    """An annotation as its source has it: by name where it has one, without what only the check reads."""
    if annotation is None or annotation is NoneType:
        return "None"
    if isinstance(annotation, str):
        return annotation
    if isinstance(annotation, type) and not get_args(annotation):
        return annotation.__name__
    if (name := names.get(id(annotation))) is not None:
        return name
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _words(parts[0], names)
    if origin is Literal:
        return " | ".join(map(repr, parts))
    if origin in (Union, UnionType):
        return " | ".join(_words(part, names) for part in parts)
    if origin is not None and parts:
        inside = ", ".join(
            "[" + ", ".join(_words(item, names) for item in part) + "]"
            if isinstance(part, list)
            else "..."
            if part is ...
            else _words(part, names)
            for part in parts
        )
        return f"{getattr(origin, '__name__', origin)}[{inside}]"
    return str(getattr(annotation, "__name__", annotation)).removeprefix("typing.")
