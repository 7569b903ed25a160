"""Annotations made into judges of arguments."""

import builtins
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Annotated, Any, ForwardRef, Literal, TypeVar, get_args, get_origin

import numpy as np
from jaxtyping import AbstractArray

from mmlens.core.compound_judges import Constrained, Either, Fields, Items, Table
from mmlens.core.judges import Anything, Array, Choice, Flag, Instance, Judge, Nothing, Number, Subclass, Whole
from mmlens.core.kinds import Accepts, Gaps, Must, OneOf, With


class Compiler:
    """Makes a judge of an annotation, and collects what another argument decides.

    Args:
        finite: whether NaN and infinity are refused.
        names: what names in an annotation mean.
    """

    def __init__(self, finite: bool, names: Mapping[str, Any]):
        self.finite, self.names = finite, names
        self.conditions: list[With] = []

    def judge(self, hint: Any) -> Judge:
        """The judge of an annotation."""
        if isinstance(hint, str | ForwardRef):
            text = hint if isinstance(hint, str) else hint.__forward_arg__
            return self.judge(eval(text, {}, _Names(self.names)))
        if hint is float:
            return Number(self.finite)
        for plain, kind in ((int, Whole), (bool, Flag), (None, Nothing), (types.NoneType, Nothing)):
            if hint is plain:
                return kind()
        if hint is Any or hint is object:
            return Anything()
        if isinstance(hint, TypeVar):
            return Anything() if hint.__bound__ is None else self.judge(hint.__bound__)
        origin, parts = get_origin(hint), get_args(hint)
        if origin is Annotated:
            return self._annotated(*parts)
        if origin in (typing.Union, types.UnionType):
            return self._either(parts)
        if origin is Literal:
            return Choice(parts)
        if origin is None:
            return Array(hint, self.finite) if _is_array_class(hint) else Instance(hint)
        return self._of_parts(origin, parts)

    def _either(self, parts: tuple[Any, ...]) -> Judge:
        """The judge of alternatives; what other arguments decide of one of them is not asked of values of the others."""
        compilers = [Compiler(self.finite, self.names) for _ in parts]
        judges = [compiler.judge(part) for compiler, part in zip(compilers, parts)]
        plain = [judge for judge, compiler in zip(judges, compilers) if not compiler.conditions]
        for compiler in compilers:
            self.conditions += [_unless(plain, condition) for condition in compiler.conditions]
        return Either(judges)

    def _annotated(self, inner: Any, *extras: Any) -> Judge:
        """The judge of a type with conditions."""
        self.conditions += [extra for extra in extras if isinstance(extra, With)]
        if any(isinstance(extra, Gaps) for extra in extras):
            return Compiler(False, self.names).judge(inner)
        for extra in extras:
            if isinstance(extra, OneOf):
                return Choice(tuple(extra.words))
        inner = next((extra.hint for extra in extras if isinstance(extra, Accepts)), inner)
        conditions = [extra for extra in extras if isinstance(extra, Must)]
        return Constrained(self.judge(inner), conditions) if conditions else self.judge(inner)

    def _of_parts(self, origin: Any, parts: tuple[Any, ...]) -> Judge:
        """The judge of a type made of parts."""
        if origin is tuple and not (len(parts) == 2 and parts[1] is ...):
            return Fields([self.judge(part) for part in parts])
        if issubclass(origin, Mapping):
            return Table(self.judge(parts[0]), self.judge(parts[1]))
        if origin in (tuple, list, set, frozenset, Sequence, Collection, Iterable, AbstractSet):
            return Items(origin, self.judge(parts[0]))
        if origin is type and isinstance(parts[0], type):
            return Subclass(parts[0])
        return Instance(Callable if origin is Callable else origin)


def _unless(judges: Sequence[Judge], condition: With) -> With:
    """A condition for values that none of some judges accepts."""

    def resolve(arguments: Mapping[str, Any], value: Any, name: str) -> Any:
        if any(judge.accepts(value) for judge in judges):
            return value
        return condition.resolve(arguments, value, name)

    return With(resolve)


def _is_array_class(hint: Any) -> bool:
    if not isinstance(hint, type):
        return False
    return issubclass(hint, AbstractArray | np.ndarray) or (hint.__module__, hint.__name__) == ("torch", "Tensor")


class _ByName(type):
    """The class of stand-ins for classes that are imported for type checkers alone: they know an instance by its class's name."""

    def __instancecheck__(cls, value: object) -> bool:
        return any(base.__name__ == cls.__name__ for base in type(value).__mro__)

    def __getattr__(cls, name: str) -> "type":
        if name.startswith("_") or name == "must_be":
            raise AttributeError(name)
        return _ByName(name, (), {})


class _Names(dict[str, Any]):
    """Names that an annotation may use."""

    def __missing__(self, name: str) -> Any:
        return getattr(builtins, name) if hasattr(builtins, name) else _ByName(name, (), {})
