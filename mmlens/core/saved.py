"""Results in files: one way for all of them, by what their annotations say."""

import re
from pathlib import Path
from typing import Any, ClassVar, TypeVar, cast

from mmlens.core.contract import checked
from mmlens.core.errors import InputError
from mmlens.core.files import require_file
from mmlens.core.forms import Tensors
from mmlens.core.kinds import PathLike
from mmlens.core.packing import Record, form_of
from mmlens.core.results import JsonKind, TensorKind

SavedT = TypeVar("SavedT", bound="Saved")


class Saved:
    """A dataclass that has a file: `.save(path)` and `.load(path)`.

    The file holds all fields but those with `metadata=UNSAVED`, which have defaults: safetensors where they hold tensors or
    pictures, else JSON. It says what it is (`mmlens.PatchSweep/1`), and a checksum finds every change of it.

        class Overlap(Viewable, Saved, version=2): ...
    """

    _version: ClassVar[int] = 1

    def __init_subclass__(cls, *, version: int = 1, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls._version = version

    @checked
    def save(self, path: PathLike) -> Path:
        """Write it into one file, whole or not at all; `load` reads it.

        Args:
            path: of the file; its folder must exist.

        Returns:
            The path.

        Raises:
            InputError: if the file cannot be written, or a field holds what no file does.
        """
        tensors: Tensors = {}
        try:
            content = form_of(type(self)).pack(self, "", tensors)
        except InputError as error:
            raise InputError(f"{type(self).__name__} cannot be written into {path}: {error}.") from error
        kinds = self._kinds()
        return kinds[1].write(path, content) if not tensors else kinds[0].write(path, tensors, content)

    @classmethod
    @checked
    def load(cls: type[SavedT], path: PathLike) -> SavedT:
        """Read one that `save` wrote.

        Args:
            path: of the file.

        Raises:
            InputError: if there is no file, or it holds something else, or is of another version.
            DamagedFileError: if it was changed or cut off.
        """
        of_tensors, of_json = cls._kinds()
        with require_file(path, of_json.result).open("rb") as file:
            is_json = file.read(1) == b"{"  # what safetensors begins with is divisible by eight
        tensors, content = ({}, of_json.read(path)) if is_json else of_tensors.read(path)
        try:
            return form_of(cls).unpack(content, "", tensors)
        except InputError as error:
            raise InputError(f"{path} is no {of_json.result} that can be read: {error}.") from error

    def _written(self: SavedT) -> SavedT:
        """What is written of it; itself, where a class says nothing else."""
        return self

    @classmethod
    def _kinds(cls) -> tuple[TensorKind, JsonKind]:
        """Its kind of file, with tensors and without."""
        words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", cls.__name__).lower()
        words = f"file of {words}" if re.search("(?<!len)s$", words) else words
        about = f"mmlens.{cls.__name__}", cls._version, words, dict.fromkeys(cast(Record, form_of(cls)).fields, Any)
        return TensorKind(*about), JsonKind(*about)
