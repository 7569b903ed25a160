"""The finished cells of a sweep in a file, so that an interrupted one goes on where it stopped."""

import hashlib
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch

from mmlens.core.errors import InputError
from mmlens.core.results import read_tensors, write_tensors
from mmlens.inputs.batch import MultimodalBatch

_FORMAT = "mmlens.PatchSweep.cells/1"
_SECONDS = 5.0  # between writes


def hash_of(pieces: Iterable[object]) -> str:
    """A hash of tensors and printed values, 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for piece in pieces:
        if isinstance(piece, torch.Tensor):
            held = piece.detach().cpu().contiguous()
            digest.update(f"{held.dtype}{list(held.shape)}".encode())
            digest.update(held.flatten().view(torch.uint8).numpy().tobytes() if held.numel() else b"")
        else:
            digest.update(repr(piece).encode())
        digest.update(b"|")
    return digest.hexdigest()[:16]


def hash_of_batch(batch: MultimodalBatch) -> str:
    """A hash of everything that a batch puts into a model: its tensors, and what it carries."""
    tensors = [piece for name in sorted(batch.inputs) for piece in (name, batch.inputs[name])]
    carried = [piece for held in batch.carried for piece in (held.at, *held.rows, *held.values)]
    return hash_of([*tensors, *carried])


class Checkpoint:
    """Values of a sweep as they come, in a file beside the work.

    Args:
        path: the file; None keeps nothing.
        question: hashes of what was asked, by what they are of (model, clean batch, positions, ...).

    Attributes:
        values: `[point group sample]`, NaN where unfinished; from the file, or made by `start`.

    Raises:
        InputError: if the file is no checkpoint, or holds the cells of another question.
    """

    def __init__(self, path: str | Path | None, question: Mapping[str, str]):
        self.path = None if path is None else Path(path)
        self.question = dict(question)
        self.values = torch.empty(0)
        self._written = time.monotonic()
        if self.path is None:
            return
        if not self.path.parent.is_dir():
            raise InputError(f"Cannot write {path}: the folder {self.path.parent} does not exist; create it first.")
        if self.path.exists():
            self.values = self._read(self.path)

    def start(self, shape: tuple[int, int, int]) -> torch.Tensor:
        """The values found so far, of the given shape; NaN everywhere if there are none."""
        if self.values.shape != shape:
            self.values = torch.full(shape, torch.nan)
        return self.values

    def _read(self, path: Path) -> torch.Tensor:
        tensors, about = read_tensors(path, format=_FORMAT, what="checkpoint of a sweep")
        held = about["question"]
        other = [name for name, value in self.question.items() if held.get(name) != value]
        if other:
            raise InputError(
                f"{path} holds the cells of another sweep: it differs in {', '.join(other)}. Use another file, or delete it."
            )
        return tensors["values"]

    def save(self, *, now: bool = False) -> None:
        """Write the values, unless that was done a moment ago.

        Args:
            now: write in any case.
        """
        if self.path is None or (not now and time.monotonic() - self._written < _SECONDS):
            return
        write_tensors(self.path, {"values": self.values}, format=_FORMAT, about={"question": self.question})
        self._written = time.monotonic()
