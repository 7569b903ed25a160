"""A lock on a folder: one writer at a time, whoever dies lets go of it."""

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmlens.core.errors import InputError

if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int) -> None:
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


@contextmanager
def locked(folder: Path, what: str) -> Iterator[None]:
    """Be a folder's only writer inside the `with`. The operating system keeps the lock, and lifts it when its holder ends.

    Args:
        folder: made if it does not exist.
        what: it holds, for messages.

    Raises:
        InputError: if another process, or another thread of this one, is writing there; says which.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            _lock(descriptor)
        except OSError as error:
            holder = os.read(descriptor, 200).decode(errors="replace") or "another process"
            raise InputError(
                f"{what} at {folder} is being written by {holder}; wait until that is through, or name another folder. (The "
                "processes of one launch share a store; two launches do not.)"
            ) from error
        os.truncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode())
        yield
    finally:
        os.close(descriptor)
