"""Files are written whole or not at all, and are on the disk when they are said to be."""

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmlens.core.errors import InputError

#: In the name of a folder that a file is being written in.
_UNFINISHED = ".unfinished-"


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Give a temporary path; what is written there takes the place of `path` when the `with` ends well, else it is removed.

    Both the file and its name are on the disk when the `with` has ended, so that a power failure leaves the old file or the new
    one.

    The temporary path lies in a hidden folder of its own beside `path`, so that halves of files which a library makes
    beside what it is told to write are in there too, and `clear_unfinished` finds all that a killed writer left.

    Raises:
        InputError: if the folder of `path` does not exist or cannot be written in, or `path` is a folder, a device or a pipe.
    """
    path = _writable(path)
    try:
        writing = tempfile.TemporaryDirectory(prefix=f".{path.name[:40]}{_UNFINISHED}", dir=path.parent)
    except OSError as error:
        raise InputError(
            f"Cannot write {path!s:.300}: {error.strerror} in {path.parent!s:.300}; name another folder."
        ) from error
    with writing as folder:
        temporary = Path(folder) / path.name
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        _sync(temporary)
        os.replace(temporary, path)
        _sync(path.parent)


def _writable(path: str | Path) -> Path:
    """Where a file is written: behind links, and never in the place of what is no file."""
    path = Path(path)
    try:
        path = Path(os.path.realpath(path)) if path.is_symlink() else path
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        if not path.parent.is_dir():
            raise InputError(
                f"Cannot write {path}: the folder {path.parent} does not exist; create it first."
            ) from None
        return path
    except OSError as error:
        raise InputError(f"Cannot write {path!s:.300}: {error.strerror}; name another file.") from error
    if stat.S_ISDIR(mode):
        raise InputError(f"Cannot write {path}: it is a folder; name a file in it.")
    if not stat.S_ISREG(mode):
        raise InputError(f"Cannot write {path}: it is a device or a pipe, and would be replaced; name a file.")
    return path


def _sync(path: Path) -> None:
    """Have a file's bytes, or a folder's names, on the disk; Windows cannot be asked for folders."""
    if path.is_dir() and os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def clear_unfinished(folder: Path) -> None:
    """Remove what writers that were killed inside `whole_file` left in a folder; nobody else may be writing there."""
    for folder_of_writer in folder.glob(f".*{_UNFINISHED}*"):
        shutil.rmtree(folder_of_writer)


def made_folder(path: str | Path) -> Path:
    """The folder at `path`, made with those above it where it is not there.

    Raises:
        InputError: if a file stands there, or in the way.
    """
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise InputError(
            f"Cannot make the folder {path}: a file stands there, or in its way; name another one."
        ) from error
    return path


def require_file(path: str | os.PathLike[str], kind: str) -> Path:
    """Return `path` as a Path if a file is there.

    Raises:
        InputError: if nothing is there, or no file that may be read.
    """
    path = Path(path)
    if not os.path.exists(path):  # Path.exists raises for names that are too long
        raise InputError(f"There is no {kind} at {path!s:.300}.")
    if not path.is_file():
        article = "an" if kind[0] in "aeiou" else "a"
        raise InputError(f"{path} is a {'folder' if path.is_dir() else 'device or a pipe'}, not {article} {kind}.")
    if not os.access(path, os.R_OK):
        raise InputError(f"{path} may not be read by this user; ask for the right to read it, or take a copy.")
    return path
