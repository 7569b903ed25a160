"""`Checkpoint`: finished pieces of a run in a file, so that the same call goes on where an interrupted one stopped."""

import time
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from mmlens.core.errors import InputError
from mmlens.core.processes import this_process
from mmlens.core.results import TensorKind

_SECONDS = 5.0  # between writes, at least


class Checkpoint:
    """Finished pieces of a run, in memory, and in a file if one is given.

    The processes of one launch hold the same pieces; all read the file, and the first one writes it.

    Args:
        path: the file; read if it exists. None keeps everything in memory alone.
        run: the kind of run, for messages, e.g. `"sweep"`.
        identity: gives what decides the results, as hashes by what they are of (the weights, points, a metric), and is told
            whether there is a file, which must not be continued by another run.

    Attributes:
        tensors: pieces that are tensors, by name.
        parts: pieces that are plain data (as JSON has it), by name.

    Raises:
        InputError: if the folder of the file does not exist, or the file is damaged, no checkpoint, or one of another run.
    """

    def __init__(self, path: str | Path | None, run: str, identity: Callable[[bool], Mapping[str, str]]):
        self.path = None if path is None else Path(path)
        self.tensors: dict[str, torch.Tensor] = {}
        self.parts: dict[str, Any] = {}
        self._run = run
        self._time = time.monotonic()
        self._pause = _SECONDS
        self._work_out = identity
        if self.path is None:
            return
        if not self.path.parent.is_dir():
            raise InputError(f"Cannot write {path}: the folder {self.path.parent} does not exist; create it first.")
        self.identity  # noqa: B018 (what cannot be told is refused before anything runs)
        if self.path.exists():
            self._read(self.path)

    @cached_property
    def identity(self) -> dict[str, str]:
        """What decides the results; to be asked for while the model is as it ran."""
        return dict(self._work_out(self.path is not None))

    @property
    def _file(self) -> TensorKind:
        fields = {"identity": dict[str, str], "parts": dict[str, Any]}
        return TensorKind(f"mmlens.Checkpoint of a {self._run}", 2, f"checkpoint of a {self._run}", fields)

    def _read(self, path: Path) -> None:
        self.tensors, about = self._file.read(path)
        stored, identity = about["identity"], self.identity
        different = [name for name in {**identity, **stored} if identity.get(name) != stored.get(name)]
        if different:
            raise InputError(
                f"{path} holds the results of another {self._run}: it differs in {', '.join(different)}. Use another file, or "
                "delete it."
            )
        self.parts = about["parts"]

    def save(self, *, now: bool = False) -> None:
        """Write the pieces, unless that was done a moment ago.

        Args:
            now: write in any case.
        """
        start = time.monotonic()
        if self.path is None or (not now and start - self._time < self._pause) or not this_process().is_first:
            return
        self._file.write(self.path, self.tensors, {"identity": self.identity, "parts": self.parts})
        self._time = time.monotonic()
        self._pause = max(_SECONDS, 10 * (self._time - start))  # large files take their time
