"""A fault in functions of a module that is imported already: their code is replaced, wherever the functions are held."""

import gc
import inspect
from collections import defaultdict
from collections.abc import Iterator
from types import CodeType, FunctionType

from benchmarks.mutation.parts import ROOT

#: What tells a function of a file: its qualified name and first line.
Key = tuple[str, str, int]


def functions_of_package() -> dict[Key, list[FunctionType]]:
    """All functions of mmlens that exist now, also behind decorators."""
    result: dict[Key, list[FunctionType]] = defaultdict(list)
    folder = str(ROOT / "mmlens")
    for value in gc.get_objects():
        if type(value) is FunctionType and value.__code__.co_filename.startswith(folder):
            result[_key(value.__code__)].append(value)
    return result


def changed_functions(file: str, old: str, new: str) -> list[tuple[Key, CodeType]] | None:
    """The functions that differ between two texts of a file, the outermost; None if what runs at import differs."""
    path = str(ROOT / file)
    return _changed(compile(old, path, "exec"), compile(new, path, "exec"))


def _changed(old: CodeType, new: CodeType) -> list[tuple[Key, CodeType]] | None:
    if _own(old) != _own(new):
        return None
    result: list[tuple[Key, CodeType]] = []
    for one, other in zip(_inner(old), _inner(new), strict=True):
        if one.co_flags & inspect.CO_OPTIMIZED:
            if _whole(one) != _whole(other):
                result.append((_key(one), other))
        else:  # the body of a class
            inner = _changed(one, other)
            if inner is None:
                return None
            result += inner
    return result


def swap(changed: list[tuple[Key, CodeType]], functions: dict[Key, list[FunctionType]]) -> bool:
    """Give functions other code; False, with nothing changed, if one is not found or takes no such code."""
    pairs = [(function, code) for key, code in changed for function in functions.get(key, [])]
    known = all(functions.get(key) for key, _ in changed)
    if not changed or not known or any(f.__code__.co_freevars != code.co_freevars for f, code in pairs):
        return False
    for function, code in pairs:
        function.__code__ = code
    return True


def _key(code: CodeType) -> Key:
    return (
        code.co_filename,
        getattr(code, "co_qualname", code.co_name),
        code.co_firstlineno,
    )  # qualified from Python 3.11 on


def _inner(code: CodeType) -> list[CodeType]:
    return [constant for constant in code.co_consts if isinstance(constant, CodeType)]


def _own(code: CodeType) -> tuple[object, ...]:
    """What a piece of code does besides the functions and classes in it."""
    constants = [repr(constant) for constant in code.co_consts if not isinstance(constant, CodeType)]
    return code.co_code, constants, code.co_names, code.co_varnames, code.co_freevars, len(_inner(code))


def _whole(code: CodeType) -> list[tuple[object, ...]]:
    def parts(code: CodeType) -> Iterator[tuple[object, ...]]:
        yield _own(code)
        for inner in _inner(code):
            yield from parts(inner)

    return list(parts(code))
