"""Forms: how the values of one kind become plain data and tensors of a file, and values again."""

import typing
from collections.abc import Collection, Mapping, Sequence
from io import BytesIO
from typing import Any

import numpy as np
import torch
from PIL import Image

from mmlens.core.annotations import Compiler
from mmlens.core.errors import InputError
from mmlens.core.judges import Judge
from mmlens.core.wording import a_or_an, short

_PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA")
PLAIN = (bool, int, float, str)

#: The tensors of a file, by name.
Tensors: typing.TypeAlias = dict[str, torch.Tensor]


class Form:
    """How the values of one annotation become data."""

    words = "something that files hold"

    def pack(self, value: Any, name: str, tensors: Tensors) -> Any:
        """The data of a value; its tensors are added to those of the file.

        Raises:
            InputError: for what no file holds.
        """
        return self._pack(value, name, tensors)

    def unpack(self, data: Any, name: str, tensors: Tensors) -> Any:
        """The value of data.

        Raises:
            InputError: for the data of something else.
        """
        return self._unpack(data, name, tensors)

    def _pack(self, value: Any, name: str, tensors: Tensors) -> Any:
        raise NotImplementedError

    def _unpack(self, data: Any, name: str, tensors: Tensors) -> Any:
        raise NotImplementedError

    def expect(self, right: bool, value: Any, name: str) -> None:
        """Refuse a value, or data, of another kind."""
        if not right:
            raise InputError(f"{name}={short(value)} must be {self.words}")


class Plain(Form):
    """Numbers, strings, and choices among them."""

    def __init__(self, hint: Any):
        self.judge: Judge = Compiler(False, {}).judge(hint)
        self.words = self.judge.words

    def _pack(self, value: Any, name: str, tensors: Tensors) -> Any:
        return self.unpack(value.item() if isinstance(value, np.generic) else value, name, tensors)

    def _unpack(self, data: Any, name: str, tensors: Tensors) -> Any:
        self.expect(self.judge.accepts(data), data, name)
        return data


class Text(Form):
    """Values that a string names: paths, units."""

    def __init__(self, kind: type, read: Any):
        self.kind, self.read, self.words = kind, read, f"{a_or_an(kind.__name__)} {kind.__name__}"

    def _pack(self, value: Any, name: str, tensors: Tensors) -> Any:
        self.expect(isinstance(value, self.kind), value, name)
        return str(value)

    def _unpack(self, data: Any, name: str, tensors: Tensors) -> Any:
        self.expect(isinstance(data, str), data, name)
        return self.read(data)


class Array(Form):
    """Tensors and numpy arrays."""

    words = "a tensor or an array of numbers"

    def __init__(self, is_numpy: bool):
        self.is_numpy = is_numpy

    def _pack(self, value: Any, name: str, tensors: Tensors) -> str:
        if isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
            value = torch.from_numpy(np.ascontiguousarray(value))
        self.expect(isinstance(value, torch.Tensor), value, name)
        while name in tensors:
            name += "'"
        tensors[name] = value
        return name

    def _unpack(self, data: Any, name: str, tensors: Tensors) -> Any:
        self.expect(isinstance(data, str) and data in tensors, data, name)
        return tensors[data].numpy() if self.is_numpy else tensors[data]


class Picture(Form):
    """Pictures, as PNG."""

    words = "a picture"

    def _pack(self, value: Any, name: str, tensors: Tensors) -> str:
        self.expect(isinstance(value, Image.Image), value, name)
        file = BytesIO()
        (value if value.mode in _PNG_MODES else value.convert("RGB")).save(file, "PNG")
        return Array(False).pack(torch.frombuffer(bytearray(file.getvalue()), dtype=torch.uint8), name, tensors)

    def _unpack(self, data: Any, name: str, tensors: Tensors) -> Image.Image:
        return Image.open(BytesIO(Array(True).unpack(data, name, tensors).tobytes())).copy()


class Table(Form):
    """Data frames, by their columns."""

    words = "a data frame"

    def _pack(self, value: Any, name: str, tensors: Tensors) -> Any:
        plain = value.astype(object).where(value.notna(), None)
        return {str(key): [str(column.dtype), plain[key].tolist()] for key, column in value.items()}

    def _unpack(self, data: Any, name: str, tensors: Tensors) -> Any:
        import pandas as pd

        self.expect(isinstance(data, dict), data, name)
        return pd.DataFrame({key: pd.Series(column, dtype=dtype) for key, (dtype, column) in data.items()})


class Items(Form):
    """Lists, tuples of any length, and sets."""

    def __init__(self, kind: Any, item: Form):
        self.kind, self.item, self.words = kind, item, f"a list of which each is {item.words}"

    def _pack(self, value: Any, name: str, tensors: Tensors) -> Any:
        self.expect(isinstance(value, Collection) and not isinstance(value, str | Mapping), value, name)
        return [self.item.pack(item, f"{name}.{number}", tensors) for number, item in enumerate(value)]

    def _unpack(self, data: Any, name: str, tensors: Tensors) -> Any:
        self.expect(isinstance(data, list), data, name)
        return self.kind(self.item.unpack(item, f"{name}.{number}", tensors) for number, item in enumerate(data))


class Pieces(Form):
    """Tuples of a fixed length, named ones too."""

    def __init__(self, kind: Any, items: Sequence[Form]):
        self.kind, self.items, self.words = kind, items, f"({', '.join(item.words for item in items)})"

    def _pack(self, value: Any, name: str, tensors: Tensors) -> Any:
        self.expect(isinstance(value, list | tuple) and len(value) == len(self.items), value, name)
        return [form.pack(item, f"{name}.{number}", tensors) for number, (form, item) in self._with(value)]

    def _unpack(self, data: Any, name: str, tensors: Tensors) -> Any:
        self.expect(isinstance(data, list) and len(data) == len(self.items), data, name)
        return self.kind(form.unpack(item, f"{name}.{number}", tensors) for number, (form, item) in self._with(data))

    def _with(self, values: Sequence[Any]) -> Any:
        return enumerate(zip(self.items, values, strict=True))


class Named(Form):
    """Mappings; of strings as JSON has them, of other keys as pairs."""

    words = "a table"

    def __init__(self, key: Form, value: Form):
        self.key, self.value = key, value

    def _pack(self, value: Any, name: str, tensors: Tensors) -> Any:
        self.expect(isinstance(value, Mapping), value, name)
        pairs = [
            (self.key.pack(key, f"{name}.key", tensors), self.value.pack(item, f"{name}.{key}", tensors))
            for key, item in value.items()
        ]
        return dict(pairs) if all(isinstance(key, str) for key, _ in pairs) else list(map(list, pairs))

    def _unpack(self, data: Any, name: str, tensors: Tensors) -> Any:
        self.expect(isinstance(data, dict) or (isinstance(data, list) and all(len(p) == 2 for p in data)), data, name)
        return {
            self.key.unpack(key, f"{name}.key", tensors): self.value.unpack(item, f"{name}.{key}", tensors)
            for key, item in (data.items() if isinstance(data, dict) else data)
        }


class Maybe(Form):
    """None, or a value of a form."""

    def __init__(self, form: Form):
        self.form, self.words = form, f"None or {form.words}"

    def _pack(self, value: Any, name: str, tensors: Tensors) -> Any:
        return None if value is None else self.form.pack(value, name, tensors)

    def _unpack(self, data: Any, name: str, tensors: Tensors) -> Any:
        return None if data is None else self.form.unpack(data, name, tensors)


class Cut(Form):
    """Slices."""

    words = "a slice"

    def __init__(self, ends: Form):
        self.ends = ends

    def _pack(self, value: Any, name: str, tensors: Tensors) -> Any:
        return self.ends.pack([value.start, value.stop, value.step], name, tensors)

    def _unpack(self, data: Any, name: str, tensors: Tensors) -> Any:
        return slice(*self.ends.unpack(data, name, tensors))
