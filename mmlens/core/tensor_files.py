"""Tensors in safetensors files, each with a checksum, and a checksum over what the file says of them.

A flipped bit anywhere, a cut end, a tensor that is missing, added or of another shape: all are found before a value of the
tensor is handed out.
"""

import hashlib
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from mmlens.core.errors import DamagedFileError
from mmlens.core.files import require_file, whole_file

#: Bytes of a tensor that are looked at together.
_PIECE = 1 << 24
_TENSORS, _CHECKSUM = "tensors", "checksum"


def write_tensor_file(path: str | Path, tensors: Mapping[str, torch.Tensor], about: Mapping[str, Any]) -> str:
    """Write one safetensors file, whole or not at all.

    Args:
        path: file to write; its folder must exist.
        tensors: by name; those that share memory are told apart.
        about: plain data, kept as JSON in the file's metadata.

    Returns:
        The checksum of the whole: of two files with the same one, all tensors and all that is said of them are the same.
    """
    copies = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    sums = {
        name: {"dtype": str(tensor.dtype), "shape": list(tensor.shape), "crc32": _crc(tensor)}
        for name, tensor in copies.items()
    }
    metadata = {name: json.dumps(value) for name, value in {**about, _TENSORS: sums}.items()}
    metadata[_CHECKSUM] = _checksum(metadata)
    with whole_file(path) as temporary:
        save_file(copies, temporary, metadata=metadata)
    return metadata[_CHECKSUM]


class TensorFile:
    """A file that `write_tensor_file` wrote, left on the disk until tensors are asked for.

    Args:
        path: the file.
        kind: what it is, for messages, e.g. `"patch sweep"`.
        require: raises InputError if the form that the file names is not the one that is wanted.

    Raises:
        InputError: if there is no file.
        DamagedFileError: if it is no such file, or what it says of its tensors was changed.
    """

    def __init__(self, path: str | Path, kind: str, require: Callable[[object], None]):
        self.path, self.kind = require_file(path, kind), kind
        self._sound: set[str] = set()
        with self._opened() as reader:
            metadata = dict(reader.metadata() or {})
            names = set(reader.keys())
        require(_plain(metadata.get("format")))
        self.checksum: str = metadata.pop(_CHECKSUM, "")
        if not self.checksum:
            raise self.damaged("it has no checksum, so it was written by something else or is cut off")
        if self.checksum != _checksum(metadata):
            raise self.damaged("what it says of its tensors does not match its checksum")
        self.about: dict[str, Any] = {name: json.loads(value) for name, value in metadata.items()}
        del self.about["format"]
        self._sums: dict[str, Any] = self.about.pop(_TENSORS)
        if names != set(self._sums):
            raise self.damaged(f"it holds the tensors {sorted(names)}, not {sorted(self._sums)}")

    @property
    def names(self) -> tuple[str, ...]:
        """The tensors that it holds."""
        return tuple(self._sums)

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Their shapes."""
        return {name: tuple(entry["shape"]) for name, entry in self._sums.items()}

    def damaged(self, why: str) -> DamagedFileError:
        """The error that says that, and how, the file is damaged."""
        return DamagedFileError(
            f"{self.path} is no {self.kind}, or a damaged one: {why}. Take it from a copy, or make it anew."
        )

    def tensor(self, name: str, device: torch.device | str = "cpu") -> torch.Tensor:
        """A tensor.

        Raises:
            DamagedFileError: if it does not match its checksum.
        """
        return self.tensors([name], device)[name]

    def tensors(self, names: Iterable[str], device: torch.device | str = "cpu") -> dict[str, torch.Tensor]:
        """Several tensors, by name.

        Raises:
            DamagedFileError: if one does not match its checksum.
        """
        with self._opened(device) as reader:
            result = {name: reader.get_tensor(name) for name in names}
        for name in set(result) - self._sound:
            self._compare(name, result[name].dtype, result[name].shape, _crc(result[name].cpu()))
        return result

    def rows(self, name: str, rows: slice) -> torch.Tensor:
        """Some rows of a tensor; when they are asked for first, all of it is compared with its checksum, a piece at a time.

        Raises:
            DamagedFileError: if it does not match.
        """
        self.check(name)
        with self._opened() as reader:
            return reader.get_slice(name)[rows]

    def check(self, name: str) -> None:
        """Compare a tensor with its checksum, once.

        Raises:
            DamagedFileError: if it does not match.
        """
        if name in self._sound:
            return
        with self._opened() as reader:
            view = reader.get_slice(name)
            shape = tuple(view.get_shape())
            crc, dtype = 0, torch.uint8
            for piece in _pieces(view, shape) if shape else [reader.get_tensor(name)]:
                crc, dtype = _crc(piece, crc), piece.dtype
        self._compare(name, dtype, shape, crc)

    def _compare(self, name: str, dtype: torch.dtype, shape: tuple[int, ...], crc: int) -> None:
        actual = {"dtype": str(dtype), "shape": list(shape), "crc32": crc}
        if actual != self._sums[name]:
            raise self.damaged(f"the tensor {name!r} does not match its checksum")
        self._sound.add(name)

    def _opened(self, device: torch.device | str = "cpu") -> Any:
        try:
            return safe_open(self.path, framework="pt", device=str(device))
        except (SafetensorError, OSError) as error:
            raise self.damaged(str(error)) from error


def _plain(text: str | None) -> object:
    """What a word of the metadata is, as JSON or as it stands."""
    try:
        return None if text is None else json.loads(text)
    except ValueError:
        return text


def _pieces(view: Any, shape: tuple[int, ...]) -> Iterator[torch.Tensor]:
    """All rows of a tensor in a file, some at a time; an empty piece of one without rows."""
    width = max(1, torch.Size(shape[1:]).numel() * 8)
    step = max(1, _PIECE // width)
    return (view[start : start + step] for start in range(0, max(1, shape[0]), step))


def _crc(tensor: torch.Tensor, start: int = 0) -> int:
    flat = tensor.detach().contiguous().reshape(-1)
    return zlib.crc32(flat.view(torch.uint8).numpy().data, start) if flat.numel() else start


def _checksum(metadata: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(dict(metadata), sort_keys=True).encode()).hexdigest()
