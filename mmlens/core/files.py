"""Files are written whole or not at all."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmlens.core.errors import InputError


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; it takes its place when the `with` ends well, and is removed if not.

    Raises:
        InputError: if the folder of `path` does not exist.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise InputError(f"Cannot write {path}: the folder {path.parent} does not exist; create it first.")
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def require_file(path: str | Path, what: str) -> Path:
    """Return `path` as a Path if a file is there.

    Raises:
        InputError: if nothing is there, or a folder.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"There is no {what} at {path}.")
    if not path.is_file():
        article = "an" if what[0] in "aeiou" else "a"
        raise InputError(f"{path} is a folder, not {article} {what}.")
    return path
