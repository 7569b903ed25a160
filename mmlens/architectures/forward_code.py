"""What the code of a module's `forward` names, read without running it."""

import dis
import functools
import inspect
from collections.abc import Iterator
from types import CodeType
from typing import Any

from torch import nn


def codes_of(module: nn.Module) -> Iterator[CodeType]:
    """The code of a module's `forward`, then that of the methods of its class that it calls."""
    kinds = type(module).__mro__
    functions: list[Any] = [module.forward]
    visited = set()
    while functions:
        code = getattr(inspect.unwrap(functions.pop()), "__code__", None)
        if code is None or code in visited:
            continue
        visited.add(code)
        yield code
        if "super" in code.co_names:
            functions += [vars(kind)["forward"] for kind in kinds[1:] if "forward" in vars(kind)]
        functions += [getattr(type(module), name) for name in code.co_names if hasattr(type(module), name)]


@functools.cache
def names_used(code: CodeType) -> tuple[str, ...]:
    """The globals, attributes and methods that a piece of code uses, in the order of its instructions."""
    return tuple(
        step.argval
        for step in dis.get_instructions(code)
        if step.opname.startswith(("LOAD_GLOBAL", "LOAD_ATTR", "LOAD_METHOD"))
    )
