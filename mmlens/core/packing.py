"""How values become plain data and tensors, and values again, by their annotations: what files of results are made of.

A dataclass becomes its fields, a tensor, an array or a picture (as PNG) a tensor of the file that the data names, and everything
else what JSON has. What no annotation tells (`Any`) says of itself what it is.
"""

import types
import typing
from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import numpy as np
import torch
from jaxtyping import AbstractArray
from PIL import Image

from mmlens.core.annotations import Compiler
from mmlens.core.forms import PLAIN, Array, Cut, Form, Items, Maybe, Named, Picture, Pieces, Plain, Table, Tensors, Text
from mmlens.core.regions import Region
from mmlens.core.rules import Rule, Span
from mmlens.core.unit_sets import Units
from mmlens.core.units import Unit
from mmlens.core.wording import a_or_an

#: Metadata of a field that is not kept in files: a model, a function.
UNSAVED: Mapping[str, Any] = {"saved": None}


def saved_as(hint: Any) -> Mapping[str, Any]:
    """Metadata of a field that is annotated by what its values can do: what they are."""
    return {"saved": hint}


class Record(Form):
    """Dataclasses, by their fields."""

    def __init__(self, kind: Any):
        self.kind, self.words = kind, f"{a_or_an(kind.__name__)} {kind.__name__}"

    @cached_property
    def fields(self) -> dict[str, Form]:
        """The forms of what is kept of it; worked out late, as it may hold others of its kind."""
        hints = get_type_hints(self.kind, include_extras=True)
        kinds = {f.name: f.metadata.get("saved", hints[f.name]) for f in fields(self.kind) if f.init}
        return {name: form_of(hint) for name, hint in kinds.items() if hint is not None}

    def _pack(self, value: Any, name: str, tensors: Tensors) -> dict[str, Any]:
        value = value._written() if hasattr(value, "_written") else value
        self.expect(type(value) is self.kind, value, name)
        start = f"{name}." if name else ""
        return {key: form.pack(getattr(value, key), start + key, tensors) for key, form in self.fields.items()}

    def _unpack(self, data: Any, name: str, tensors: Tensors) -> Any:
        self.expect(isinstance(data, dict) and set(data) == set(self.fields), data, name)
        start = f"{name}." if name else ""
        return self.kind(**{key: form.unpack(data[key], start + key, tensors) for key, form in self.fields.items()})


class Either(Form):
    """Values of several kinds, which the data names."""

    def __init__(self, kinds: Sequence[Any]):
        self.forms = {getattr(kind, "__name__", str(kind)): form_of(kind) for kind in kinds}
        self.judges = {name: Compiler(False, {}).judge(kind) for name, kind in zip(self.forms, kinds, strict=True)}
        self.words = " or ".join(form.words for form in self.forms.values())

    def _pack(self, value: Any, name: str, tensors: Tensors) -> Any:
        kind = next((kind for kind, judge in self.judges.items() if judge.accepts(value)), None)
        self.expect(kind is not None, value, name)
        return {f"${kind}": self.forms[str(kind)].pack(value, name, tensors)}

    def _unpack(self, data: Any, name: str, tensors: Tensors) -> Any:
        kind = next(iter(data)) if isinstance(data, dict) and len(data) == 1 else ""
        self.expect(kind[1:] in self.forms, data, name)
        return self.forms[kind[1:]].unpack(data[kind], name, tensors)


class Anything(Form):
    """What JSON has, and tensors, tuples, slices, units and rules, which say of themselves what they are."""

    @cached_property
    def marked(self) -> dict[str, tuple[Any, Form]]:
        """What is not JSON's own, by its mark."""
        kinds = {
            kind.__name__: (kind, form_of(kind)) for kind in (Rule, Span, Unit, Units, Path, torch.Tensor, np.ndarray)
        }
        items = Items(list, self)
        values = {
            "tuple": (tuple, Items(tuple, self)),
            "slice": (slice, Cut(items)),
            "pairs": (Mapping, Named(self, self)),
        }
        return {f"${name}": entry for name, entry in (kinds | values).items()}

    def _pack(self, value: Any, name: str, tensors: Tensors) -> Any:
        value = value.item() if isinstance(value, np.generic) else value
        if value is None or isinstance(value, PLAIN):
            return value
        if isinstance(value, list):
            return Items(list, self).pack(value, name, tensors)
        if isinstance(value, Mapping) and all(isinstance(key, str) and key[:1] != "$" for key in value):
            return Named(self, self).pack(value, name, tensors)
        mark = next((mark for mark, (kind, _) in self.marked.items() if isinstance(value, kind)), "")
        self.expect(bool(mark), value, name)
        if mark == "$pairs":
            return {mark: [self.pack(list(pair), f"{name}.{pair[0]}", tensors) for pair in value.items()]}
        return {mark: self.marked[mark][1].pack(value, name, tensors)}

    def _unpack(self, data: Any, name: str, tensors: Tensors) -> Any:
        if isinstance(data, list):
            return Items(list, self).unpack(data, name, tensors)
        mark = next(iter(data), "") if isinstance(data, dict) else None
        if mark is None or mark[:1] != "$":
            return data if mark is None else Named(self, self).unpack(data, name, tensors)
        self.expect(mark in self.marked, data, name)
        return self.marked[mark][1].unpack(data[mark], name, tensors)


def form_of(hint: Any) -> Form:
    """The form of an annotation's values.

    Raises:
        TypeError: for values that no file can hold: functions, models.
    """
    return _form_of(hint)


@cache
def _form_of(hint: Any) -> Form:
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return form_of(parts[0])
    if origin in (typing.Union, types.UnionType):
        return _of_union(hint, [part for part in parts if part is not type(None)], type(None) in parts)
    if hint in PLAIN or origin is Literal:
        return Plain(hint)
    if hint is Any or hint is object:
        return Anything()
    if origin is None:
        return _of_class(hint)
    if origin is tuple and parts[-1] is not ...:
        return Pieces(tuple, [form_of(part) for part in parts])
    if issubclass(origin, Mapping):
        return Named(*map(form_of, parts))
    if issubclass(origin, tuple | list | set | frozenset):
        return Items(origin, form_of(parts[0]))
    if issubclass(origin, Collection):
        return Either([list[parts[0]], tuple[parts[0], ...]])  # type: ignore[valid-type]
    raise TypeError(f"No file holds {hint}.")


def _of_union(hint: Any, kinds: list[Any], has_none: bool) -> Form:
    """The form of alternatives."""
    forms = [form_of(kind) for kind in kinds]
    if all(isinstance(form, Plain) for form in forms):
        return Plain(hint)
    form = forms[0] if len(forms) == 1 else Either(kinds)
    return Maybe(form) if has_none else form


def _of_class(kind: Any) -> Form:
    """The form of instances of a class."""
    if issubclass(kind, AbstractArray | np.ndarray | torch.Tensor):
        return Array(np.ndarray in (kind, getattr(kind, "array_type", None)))
    if issubclass(kind, Image.Image):
        return Picture()
    if issubclass(kind, Units):
        return Items(Units, form_of(Unit))
    if issubclass(kind, Unit | Path):
        return Text(kind, kind.parse if issubclass(kind, Unit) else kind)
    if (kind.__module__.split(".")[0], kind.__name__) == ("pandas", "DataFrame"):
        return Table()
    if issubclass(kind, tuple):  # a named one
        hints = get_type_hints(kind, include_extras=True)
        return Pieces(lambda items: kind(*items), [form_of(hints[name]) for name in kind._fields])
    if kind is Rule:
        return Either(sorted({Region, *_dataclasses_below(kind)}, key=lambda below: below.__name__))
    if issubclass(kind, Mapping | list):
        return Anything()
    if not is_dataclass(kind):
        raise TypeError(f"No file holds {kind}.")
    return Record(kind)


def _dataclasses_below(kind: Any) -> set[Any]:
    """The dataclasses that derive from a class."""
    return {
        below
        for direct in kind.__subclasses__()
        for below in (direct, *_dataclasses_below(direct))
        if is_dataclass(below)
    }
