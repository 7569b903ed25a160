"""The kinds of files that results are kept in: tensors with what they are, or JSON alone.

Each kind says what it must hold. Files carry checksums; what is damaged, of another kind or version, lacks something or holds
too much is refused in one clear error.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from mmlens.core.annotations import Compiler
from mmlens.core.errors import DamagedFileError, InputError
from mmlens.core.files import require_file, whole_file
from mmlens.core.tensor_files import TensorFile, write_tensor_file
from mmlens.core.wording import a_or_an

#: The end of a JSON file: the checksum of all before it.
_SEAL = re.compile(r',\n "checksum": "([0-9a-f]{64})"\n}\n\Z')


@dataclass(frozen=True)
class FileKind:
    """A kind of result, and what a file of it must say.

    Attributes:
        name: e.g. `"mmlens.patching.PatchSweep"`.
        version: of the form; files of another one are refused.
        result: the kind in words, for messages.
        fields: what is kept besides tensors, by name, and its type.
    """

    name: str
    version: int
    result: str
    fields: Mapping[str, Any] = field(default_factory=dict)

    @property
    def _format(self) -> str:
        return f"{self.name}/{self.version}"

    def _require_form(self, path: str | Path, kind: object) -> None:
        """Refuse a file of another kind or version."""
        name, _, version = str(kind).rpartition("/")
        if name == self.name and version != str(self.version):
            raise InputError(
                f"{path} is {a_or_an(self.result)} {self.result} of version {version}, and this mmlens reads version "
                f"{self.version}: make it anew, or read it with the mmlens that wrote it."
            )
        if kind != self._format:
            raise InputError(f"{path} is no {self.result} (format {kind!r}, expected {self._format!r}).")

    def _require_fields(self, path: str | Path, about: dict[str, Any]) -> None:
        """Refuse a file that lacks something, holds too much, or something of another type."""
        self._require(path, set(self.fields), set(about), "fields")
        compiler = Compiler(False, {})
        judges = {name: compiler.judge(hint) for name, hint in self.fields.items()}
        wrong = [judge.problem(name, about[name]) for name, judge in judges.items() if not judge.accepts(about[name])]
        if wrong:
            raise InputError(f"{path} is no {self.result} that can be read: {'; '.join(wrong)}.")

    def _require(self, path: str | Path, wanted: set[str], found: set[str], what: str) -> None:
        missing, further = sorted(wanted - found), sorted(found - wanted)
        if missing or further:
            parts = [f"it lacks the {what} {', '.join(missing)}"] * bool(missing)
            parts += [f"it holds the {what} {', '.join(further)} too"] * bool(further)
            raise InputError(f"{path} is no {self.result} that can be read: {', and '.join(parts)}.")


@dataclass(frozen=True)
class TensorKind(FileKind):
    """Results that are tensors and a few words about them, in one safetensors file.

    Attributes:
        tensors: names of the tensors; None where they differ from file to file.
    """

    tensors: tuple[str, ...] | None = None

    def write(self, path: str | Path, tensors: Mapping[str, torch.Tensor], about: Mapping[str, Any]) -> Path:
        """Write a file, whole or not at all.

        Args:
            path: file to write; its folder must exist.
            tensors: by name; tensors that share memory are told apart.
            about: the fields.
        """
        write_tensor_file(path, tensors, {"format": self._format, **about})
        return Path(path)

    def read(
        self, path: str | Path, *, device: torch.device | str = "cpu"
    ) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Read a file that `write` wrote: its tensors, and the fields.

        Args:
            path: the file.
            device: where the tensors go.

        Raises:
            InputError: if there is no file, it is damaged, or it holds something else.
        """
        file, about = self.open(path)
        return file.tensors(file.names, device), about

    def open(self, path: str | Path) -> tuple[TensorFile, dict[str, Any]]:
        """The file and its fields; tensors are left on the disk.

        Raises:
            InputError: as `read`.
        """
        file = TensorFile(path, self.result, partial(self._require_form, path))
        self._require_fields(path, file.about)
        if self.tensors is not None:
            self._require(path, set(self.tensors), set(file.names), "tensors")
        return file, file.about


@dataclass(frozen=True)
class JsonKind(FileKind):
    """Results that are plain data, in one JSON file that people can read."""

    def write(self, path: str | Path, content: Mapping[str, Any]) -> Path:
        """Write a file, whole or not at all.

        Args:
            path: file to write; its folder must exist.
            content: the fields.
        """
        text = json.dumps({"format": self._format, **content}, indent=1).removesuffix("\n}")
        checksum = hashlib.sha256(text.encode()).hexdigest()
        with whole_file(path) as temporary:
            temporary.write_bytes(f'{text},\n "checksum": "{checksum}"\n}}\n'.encode())
        return Path(path)

    def read(self, path: str | Path) -> dict[str, Any]:
        """Read a file that `write` wrote.

        Raises:
            InputError: if there is no file, it is damaged, or it holds something else.
        """
        try:
            text = require_file(path, self.result).read_bytes().decode()
            content = json.loads(text)
        except ValueError as error:  # neither text nor JSON
            raise DamagedFileError(f"{path} is no {self.result}, or a damaged one: it is no JSON ({error}).") from error
        kind = content.pop("format", None) if isinstance(content, dict) else None
        self._require_form(path, kind)
        seal = _SEAL.search(text)
        if seal is None or hashlib.sha256(text[: seal.start()].encode()).hexdigest() != seal[1]:
            why = "has no checksum" if seal is None else "does not match its checksum"
            raise DamagedFileError(
                f"{path} is no {self.result}, or was changed after it was written: it {why}. Take it from a copy, or make it "
                "anew."
            )
        del content["checksum"]
        self._require_fields(path, content)
        return content
