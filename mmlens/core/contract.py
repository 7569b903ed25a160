"""The one door: `@checked` public functions and classes look at their arguments before they do anything.

Each argument is judged by its annotation (`mmlens.core.annotations`, `mmlens.core.kinds`), what other arguments decide
comes after (`With`), and everything that is wrong is said in one error. Calls from inside another checked call are
not checked again.
"""

import functools
import inspect
import sys
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any, TypeVar

from mmlens.core.annotations import Compiler
from mmlens.core.errors import ArgumentError, InputError
from mmlens.core.judges import REFUSED, Judge
from mmlens.core.kinds import CALL, With
from mmlens.core.progress import Line
from mmlens.core.signatures import ReadableSignature
from mmlens.core.wording import nearest_words

F = TypeVar("F", bound=Callable[..., Any])

#: Whether a checked call is under way in this thread or task.
_INSIDE: ContextVar[bool] = ContextVar("inside", default=False)


def checked(target: F, *, always: bool = False) -> F:
    """Check the arguments of a public function, method or dataclass before any work.

    Args:
        target: the function, under decorators such as `classmethod`; or the class, whose constructor is checked.
        always: also inside another checked call: for settings, which are few and live long.

    Raises:
        ArgumentError: at the call, for arguments that are missing, unknown, or of a wrong kind.
        InputError: for values that do not go together.

    Example:
        >>> from mmlens.core.kinds import Count
        >>> @checked
        ... def top(scores: list[float], k: Count = 3) -> list[float]:
        ...     return sorted(scores)[-k:]
        >>> top([0.5, float("nan")], k=0)
        Traceback (most recent call last):
        mmlens.core.errors.ArgumentError: top: 2 arguments cannot be used.
          scores[1]=nan must be a finite number.
          k=0 must be at least 1.
    """
    return _checked(target, finite=True, always=always)


def checked_result(target: F) -> F:
    """Check the constructor of a result, whose numbers may be NaN where something is not known.

    Args:
        target: the class.
    """
    return _checked(target, finite=False)


def _checked(target: Any, *, finite: bool, always: bool = False) -> Any:
    if isinstance(target, type):
        # each class has a constructor of its own, which leaves those of its subclasses alone
        owner: Any = target
        owner.__init__ = _wrapped(owner.__init__, target, finite, always)
        return target
    return _wrapped(target, None, finite, always)


def _wrapped(function: Callable[..., Any], owner: type | None, finite: bool, always: bool) -> Callable[..., Any]:
    contract: Contract | None = None

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal contract
        is_inside = _INSIDE.get()
        if not is_inside or always:
            if contract is None:
                contract = Contract.of(function, owner, finite)
            args, kwargs = contract.admit(args, kwargs)
        if is_inside:
            return function(*args, **kwargs)
        token = _INSIDE.set(True)
        try:
            with Line():
                return function(*args, **kwargs)
        finally:
            _INSIDE.reset(token)

    call.__signature__ = ReadableSignature(function)  # type: ignore[attr-defined]
    return call


class Contract:
    """What a function accepts.

    Args:
        name: of the function, for messages.
        parameters: of its signature.
        judges: of those that are annotated, by name.
        conditions: what other arguments decide, by name.
    """

    def __init__(
        self,
        name: str,
        parameters: Mapping[str, inspect.Parameter],
        judges: Mapping[str, Judge],
        conditions: Mapping[str, With],
    ):
        self.name, self.judges, self.conditions = name, judges, conditions
        kinds = inspect.Parameter
        self.positional = [
            name for name, p in parameters.items() if p.kind in (kinds.POSITIONAL_ONLY, kinds.POSITIONAL_OR_KEYWORD)
        ]
        self.named = {
            name for name, p in parameters.items() if p.kind in (kinds.KEYWORD_ONLY, kinds.POSITIONAL_OR_KEYWORD)
        }
        self.required = [
            name
            for name, p in parameters.items()
            if p.default is p.empty and p.kind not in (kinds.VAR_POSITIONAL, kinds.VAR_KEYWORD)
        ]
        self.more = next((name for name, p in parameters.items() if p.kind is kinds.VAR_POSITIONAL), None)
        self.options = next((name for name, p in parameters.items() if p.kind is kinds.VAR_KEYWORD), None)
        self.defaults = {name: p.default for name, p in parameters.items() if p.default is not p.empty}
        self.is_method = self.positional[:1] in (["self"], ["cls"])

    @classmethod
    def of(cls, function: Callable[..., Any], owner: type | None, finite: bool) -> "Contract":
        """Read a function's contract from its annotations.

        Args:
            function: the function, or a class's `__init__`.
            owner: the class.
            finite: whether NaN and infinity are refused.
        """
        plain = inspect.unwrap(function)
        parameters = inspect.signature(plain).parameters
        judges: dict[str, Judge] = {}
        conditions: dict[str, With] = {}
        for name, parameter in parameters.items():
            if parameter.annotation is parameter.empty:
                continue
            compiler = Compiler(finite, argument_names(plain, owner, name))
            judges[name] = compiler.judge(parameter.annotation)
            for condition in compiler.conditions:
                conditions[name] = condition
        *around, name = plain.__qualname__.split(".")
        if name == "__init__":
            name = around[-1] if owner is None else owner.__name__
        return cls(name, parameters, judges, conditions)

    def admit(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments as the function gets them.

        Raises:
            InputError: for what cannot be used; all at once.
        """
        problems: list[str] = []
        positional = list(args)
        for number, value in enumerate(positional):
            name = self.positional[number] if number < len(self.positional) else self.more
            if name is None:
                problems.append(self._too_many(len(args)))
                break
            if name in kwargs and name in self.named:
                problems.append(f"{name} was given twice, by position and by name")
            positional[number] = self._take(name, value, problems)
        keywords = {}
        for name, value in kwargs.items():
            if name in self.named:
                keywords[name] = self._take(name, value, problems)
            elif self.options is not None:
                keywords[name] = self._take(self.options, value, problems, name)
            else:
                parameters = [
                    parameters
                    for parameters in [*self.positional, *sorted(self.named)]
                    if parameters not in ("self", "cls")
                ]
                close = (
                    nearest_words(name, parameters) or f"; it takes {', '.join(dict.fromkeys(parameters)) or 'nothing'}"
                )
                problems.append(f"there is no argument {name!r}{close}")
        names = {*self.positional[: len(args)], *kwargs}
        missing = [name for name in self.required if name not in names]
        if missing:
            problems.append(f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing")
        if not problems and self.conditions:
            self._together(positional, keywords, problems)
        if problems:
            raise ArgumentError(self._message(problems))
        return tuple(positional), keywords

    def _take(self, name: str, value: Any, problems: list[str], label: str | None = None) -> Any:
        judge = self.judges.get(name)
        if judge is None or judge.accepts(value):
            return value
        result = judge.convert(value)
        if result is REFUSED:
            problems.append(judge.problem(label or name, value))
        return result

    def _together(self, positional: list[Any], keywords: dict[str, Any], problems: list[str]) -> None:
        """Check, and convert, what other arguments decide; in the order of the signature."""
        places = dict(zip(self.positional, range(len(positional))))
        values = {**self.defaults, **keywords, **{name: positional[place] for name, place in places.items()}}
        values[CALL] = self.name
        values.setdefault("model", getattr(values.get("self"), "model", values.get("self")))
        refusals: list[InputError] = []
        given = places.keys() | keywords.keys()
        for name, condition in self.conditions.items():
            if values.get(name) is None and (name not in given or self.defaults.get(name, ...) is None):
                continue
            try:
                values[name] = condition.resolve(values, values[name], name)
            except InputError as error:
                refusals.append(error)
                continue
            if name in places:
                positional[places[name]] = values[name]
            else:
                keywords[name] = values[name]
        if len(refusals) == 1:
            raise refusals[0]
        problems += [str(error).removesuffix(".") for error in refusals]

    def _too_many(self, count: int) -> str:
        skips_self = self.is_method
        takes = len(self.positional) - skips_self
        return f"it takes {takes} arguments by position, found {count - skips_self}; name the others"

    def _message(self, problems: list[str]) -> str:
        if len(problems) == 1:
            return f"{self.name}: {problems[0]}."
        lines = "".join(f"\n  {problem}." for problem in problems)
        return f"{self.name}: {len(problems)} arguments cannot be used.{lines}"


def argument_names(function: Callable[..., Any], owner: type | None, parameter: str) -> dict[str, Any]:
    """The names of the module that an annotation was written in."""
    for base in getattr(owner, "__mro__", ()):
        if parameter in inspect.get_annotations(base):
            return vars(sys.modules[base.__module__])
    return getattr(function, "__globals__", {})
