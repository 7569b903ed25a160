"""The pictures of a data set in a folder and the folders in it."""

import os
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal, TypeAlias

from mmlens.core.errors import InputError

#: Whether pictures that are not there are an error, or their samples are left out.
MissingPictures: TypeAlias = Literal["error", "skip"]


def few(names: Iterable[object], count: int = 3) -> str:
    """The first of some names, and how many there are beside."""
    items = list(names)
    rest = len(items) - count
    return ", ".join(map(str, items[:count])) + (f" and {rest:,} more" if rest > 0 else "")


class PictureFolder:
    """Finds pictures by their names in a folder and the folders in it; it is listed once.

    Args:
        path: the folder.

    Raises:
        InputError: if there is none.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        if not self.path.is_dir():
            kind = "a file" if self.path.exists() else "not there"
            raise InputError(f"images={str(path)!r} is {kind}; it must be the folder that holds the pictures.")

    @cached_property
    def _by_name(self) -> dict[str, list[Path]]:
        paths: dict[str, list[Path]] = {}
        for folder, folders, files in os.walk(self.path, followlinks=True):
            folders.sort()
            for name in files:
                paths.setdefault(name, []).append(Path(folder, name))
        return paths

    def find(self, names: Sequence[str]) -> Path | None:
        """The picture that has one of some names, the first that is there; None if none is.

        Args:
            names: file names, perhaps with the folders they are in: those must be right.

        Raises:
            InputError: if several files have the name, and it does not say in which folder.
        """
        for name in names:
            parts = Path(name).parts
            paths = [path for path in self._by_name.get(parts[-1], ()) if path.parts[-len(parts) :] == parts]
            if len(paths) > 1:
                text = few(path.relative_to(self.path) for path in paths)
                raise InputError(
                    f"{name} is {len(paths)} files under {self.path}: {text}. Pass the folder of the pictures that are meant."
                )
            if paths:
                return paths[0]
        return None

    def at(self, name: str) -> Path | None:
        """The picture at a path from the folder, else one of that name; None if there is neither."""
        path = self.path / name
        return path if path.is_file() else self.find([name])

    def content(self) -> str:
        """What there is, as a sentence."""
        if not self._by_name:
            return "The folder is empty."
        first = min(self._by_name)
        return f"There are {sum(map(len, self._by_name.values())):,} files, such as {first}."
