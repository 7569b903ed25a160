"""What a value is, in a few letters: the same for equal values in every process, another one for whatever differs.

Numbers, tensors, containers and dataclasses count with their values. Functions count with their code, their defaults, the
values that they close over, and those that they read from their module; what comes with an installed package counts with its
name. So two lambdas are told apart by what they do, not by what they are called.
"""

import builtins
import copyreg
import dis
import enum
import functools
import hashlib
import inspect
import pickle
import sys
import sysconfig
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import fields, is_dataclass
from pathlib import Path, PurePath
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from mmlens.core.errors import InputError

_T = TypeVar("_T", bound=type)
#: What a value of a class counts with, for classes of which that is not all they hold.
_CONTENT: dict[type, Callable[[Any], object]] = {}
_PLAIN = (type(None), bool, int, float, complex, str, bytes, bytearray, range, slice, enum.Enum, PurePath)
_TORCH = (torch.dtype, torch.device, torch.Size)


class UnknownIdentityError(InputError):
    """A value whose identity cannot be told."""


def counts_with(content: Callable[[Any], object]) -> Callable[[_T], _T]:
    """Say what the values of a class count with, where that is not all they hold.

    Args:
        content: gives it, from a value.
    """

    def register(kind: _T) -> _T:
        _CONTENT[kind] = content
        return kind

    return register


def identity_of(value: object, what: str = "value") -> str:
    """A hash of a value, 16 hexadecimal digits.

    Args:
        value: anything: a tensor, settings, a function.
        what: it is, for messages.

    Raises:
        UnknownIdentityError: if it, or something that it holds or closes over, cannot be told: an open file, a generator. A
            function or object with an attribute `identity`, a string, counts with that alone.

    Example:
        >>> token = 5
        >>> identity_of(lambda x: x[:, token]) == identity_of(lambda y: y[:, token])
        True
        >>> identity_of(lambda x: x[:, 5]) == identity_of(lambda x: x[:, 6])
        False
    """
    return _Teller().digest(value, what).hex()[:16]


def joint_identity(identities: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """The identity of several runs together: what they share, and a hash of what differs; nothing where one is not known."""
    if not all(identities):
        return {}
    names = {name: [identity.get(name, "") for identity in identities] for part in identities for name in part}
    return {name: values[0] if len(set(values)) == 1 else identity_of(values) for name, values in names.items()}


class _Teller:
    """Works out identities; each object of a value once."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[object, bytes]] = {}  # with the objects, so that their ids stay theirs
        self._open: dict[int, int] = {}

    def digest(self, value: object, path: str) -> bytes:
        """The hash of a value.

        Args:
            value: what.
            path: where it was met, for messages.
        """
        if id(value) in self._known:
            return self._known[id(value)][1]
        if id(value) in self._open:  # a value that holds itself: how far out says which
            return b"itself %d" % (len(self._open) - self._open[id(value)])
        self._open[id(value)] = len(self._open)
        try:
            digest = hashlib.sha256()
            for piece in self._pieces(value, path):
                digest.update(len(piece).to_bytes(8, "little"))
                digest.update(piece)
        finally:
            del self._open[id(value)]
        self._known[id(value)] = (value, digest.digest())
        return digest.digest()

    def _pieces(self, value: Any, path: str) -> Iterator[bytes]:
        """What a value counts with, its kind first."""
        name = getattr(value, "identity", None)
        if isinstance(name, str):
            yield from (b"named", name.encode())
        elif (content := _content_of(type(value))) is not None:
            yield from (_qualified(type(value)).encode(), self.digest(content(value), path))
        elif isinstance(value, torch.Tensor):
            tensor = value.detach().cpu().contiguous()
            yield f"tensor {tensor.dtype} {list(tensor.shape)}".encode()
            yield tensor.reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""
        elif isinstance(value, np.ndarray) and value.dtype != object:
            yield f"array {value.dtype.str} {value.shape}".encode()
            yield np.ascontiguousarray(value).tobytes()
        elif isinstance(value, np.generic):
            yield from self._pieces(value.item(), path)
        elif isinstance(value, _PLAIN + _TORCH):
            yield f"{type(value).__name__} {value!r}".encode()
        elif isinstance(value, types.FunctionType):
            yield from self._of_function(value, path)
        elif isinstance(value, types.MethodType):
            yield from (b"method", self.digest(value.__func__, path), self.digest(value.__self__, f"{path}.__self__"))
        elif isinstance(value, functools.partial):
            parts = (value.func, value.args, value.keywords)
            yield from (b"partial", *(self.digest(part, f"{path}'s partial") for part in parts))
        elif isinstance(value, types.ModuleType):
            yield f"module {value.__name__}".encode()
        elif isinstance(value, type):
            yield from self._of_class(value, path)
        elif isinstance(value, Mapping):
            yield f"mapping {len(value)}".encode()
            yield from sorted(self.digest(key, path) + self.digest(value[key], f"{path}[{key!r}]") for key in value)
        elif isinstance(value, AbstractSet):
            yield from (b"set", *sorted(self.digest(item, path) for item in value))
        elif isinstance(value, list | tuple | np.ndarray):
            yield f"{type(value).__name__} {len(value)}".encode()
            yield from (self.digest(item, f"{path}[{number}]") for number, item in enumerate(value))
        else:
            yield from self._of_object(value, path)

    def _of_object(self, value: Any, path: str) -> Iterator[bytes]:
        """Of a class, what its values hold."""
        kind = type(value)
        yield self.digest(kind, f"the class of {path}")
        if is_dataclass(value):
            for entry in fields(value):
                if entry.init or entry.compare:  # others are no part of what it is, e.g. counts of its last run
                    yield self.digest(getattr(value, entry.name), f"{path}.{entry.name}")
        elif isinstance(value, nn.Module):
            yield from (repr(value).encode(), self.digest(value.state_dict(), path))
        elif isinstance(value, types.BuiltinFunctionType | types.MethodDescriptorType | np.ufunc):
            yield from (_qualified(value).encode(), self.digest(getattr(value, "__self__", None), path))
        elif not _is_installed(kind) and hasattr(value, "__dict__"):
            yield self.digest(vars(value), path)
        else:
            yield from self._of_reduced(value, path)

    def _of_reduced(self, value: Any, path: str) -> Iterator[bytes]:
        """What pickle would keep of an object that says so itself."""
        try:
            reduce = copyreg.dispatch_table.get(type(value))
            state = value.__reduce_ex__(2) if reduce is None else reduce(value)
        except (TypeError, ValueError, AttributeError, RuntimeError, pickle.PickleError) as error:
            raise UnknownIdentityError(
                f"{path} is {_named(type(value))}, of which it cannot be told whether it is the same as in another run "
                f"({error}). Pass what is needed of it (a number, a tensor, a string), or give the function that uses it a "
                "name that changes when it does: function.identity = 'reads token 5, version 1'."
            ) from error
        if isinstance(state, str):
            yield state.encode()
            return
        for part in state:
            items = list(part) if isinstance(part, Iterator) else part
            yield self.digest(items, path)

    def _of_class(self, kind: type, path: str) -> Iterator[bytes]:
        """A class's name; of a user's own also what its methods do."""
        yield f"class {_qualified(kind)}".encode()
        if not _is_installed(kind):
            for base in kind.__bases__:
                yield self.digest(base, path)
            for name, member in sorted(vars(kind).items()):
                function = getattr(member, "__func__", getattr(member, "fget", member))
                if isinstance(function, types.FunctionType):
                    yield from (name.encode(), self.digest(function, f"{path}.{name}"))

    def _of_function(self, function: types.FunctionType, path: str) -> Iterator[bytes]:
        """What a function does; one of an installed package that closes over nothing, its name."""
        if _is_installed(function) and "<" not in function.__qualname__:
            yield f"function {_qualified(function)}".encode()
            return
        where = path if path.endswith(function.__name__) else f"{path} ({function.__name__})"
        yield from _of_code(function.__code__)
        yield self.digest((function.__defaults__, function.__kwdefaults__), f"the defaults of {where}")
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            try:
                contents = cell.cell_contents
            except ValueError:  # not filled yet
                contents = None
            yield self.digest(contents, f"{name!r}, which {where} closes over,")
        for name in sorted(_globals_of(function.__code__)):
            if name in function.__globals__:
                yield self.digest(function.__globals__[name], f"{name!r}, which {where} reads,")
            elif not hasattr(builtins, name):
                yield f"unknown {name}".encode()


def _content_of(kind: type) -> Callable[[Any], object] | None:
    return next((_CONTENT[base] for base in kind.__mro__ if base in _CONTENT), None)


def _of_code(code: types.CodeType) -> Iterator[bytes]:
    """What compiled code does: its instructions and constants; not where it stands, nor what its variables are called."""
    counts = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags, len(code.co_freevars))
    yield f"code {counts} {code.co_names}".encode()
    yield code.co_code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _of_code(constant)
        else:
            text = sorted(map(repr, constant)) if isinstance(constant, frozenset) else repr(constant)
            yield f"{type(constant).__name__} {text}".encode()


def _globals_of(code: types.CodeType) -> set[str]:
    """Names that code, and code inside it, reads from its module."""
    names = {step.argval for step in dis.get_instructions(code) if step.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    return names.union(*(_globals_of(part) for part in code.co_consts if isinstance(part, types.CodeType)))


@functools.cache
def _installed_folders() -> tuple[Path, ...]:
    """Where packages lie, and this one."""
    folders = [sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    return (*(Path(path).resolve() for path in folders), Path(__file__).resolve().parent.parent)


def _is_installed(thing: Any) -> bool:
    """Whether a function or class comes with Python or a package, so that its name says what it does."""
    return _module_is_installed(getattr(thing, "__module__", None) or "")


@functools.cache
def _module_is_installed(name: str) -> bool:
    module = sys.modules.get(name)
    if module is None or name == "__main__":
        return False
    try:
        file = Path(inspect.getfile(module)).resolve()
    except TypeError:  # frozen or built in
        return True
    return any(folder in file.parents for folder in _installed_folders())


def _qualified(thing: Any) -> str:
    return f"{getattr(thing, '__module__', '')}.{getattr(thing, '__qualname__', getattr(thing, '__name__', ''))}"


def _named(kind: type) -> str:
    return f"a {_qualified(kind)}"
