"""Datasets in chunks of samples that the processes of a launch share, with what is finished of them kept in a checkpoint."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import islice
from os import PathLike
from typing import Any, TypeVar

import torch

from mmlens.analysis.samples.sample import Data, Sample, as_samples, batch_of
from mmlens.core.checkpoint import Checkpoint
from mmlens.core.errors import InputError
from mmlens.core.identity import identity_of
from mmlens.core.progress import ProgressBar
from mmlens.core.shares import shared
from mmlens.inputs.batch import MultimodalBatch
from mmlens.inputs.images import Picture
from mmlens.models.hooked import HookedMultimodal
from mmlens.models.processes import process_of

Result = TypeVar("Result")


@dataclass(frozen=True)
class DataChunk:
    """Neighbouring samples of a dataset, or a batch that was prepared by the caller.

    Attributes:
        model: the hooked model.
        first: number of the first sample.
        samples: they; none of a prepared batch.
        prepared: the batch, if it was prepared.
    """

    model: HookedMultimodal
    first: int
    samples: Sequence[Sample] = ()
    prepared: MultimodalBatch | None = None

    @cached_property
    def batch(self) -> MultimodalBatch:
        """The samples, ready to run, padded on the left."""
        if self.prepared is not None:
            return self.prepared.to(self.model.device)
        return batch_of(self.model, self.samples)

    @property
    def size(self) -> int:
        """Number of samples."""
        return len(self.samples) if self.prepared is None else self.prepared.size

    @property
    def names(self) -> list[str]:
        """The names of the samples: their own, or hashes of what they hold; numbers in a prepared batch."""
        if self.prepared is not None:
            return list(map(str, range(self.size)))
        return [sample.name or sample.key for sample in self.samples]

    @property
    def key(self) -> str:
        """A hash of the samples, pixels included, with all that is known to be true of them."""
        if self.prepared is not None:
            return identity_of(self.prepared, "the batch")
        truth = [
            (s.key, s.caption, s.regions, s.writing, s.answer, s.references, s.types, s.boxes, s.attributes)
            for s in self.samples
        ]
        return f"{self.first} {identity_of(truth, 'the samples')}"

    @property
    def glance(self) -> str:
        """A hash that reads no picture: processes which were given different data shall find out, and read their share alone."""
        if self.prepared is not None:
            return self.key
        content = [
            (s.prompt, s.caption, s.answer, s.references, s.name, [_outside(p) for p in s.images]) for s in self.samples
        ]
        return identity_of(content, "the samples")


def _outside(picture: Picture) -> str:
    """What a picture is without its pixels: its path, its shape or its kind."""
    if isinstance(picture, str | PathLike):
        return str(picture)
    return str(getattr(picture, "shape", None) or getattr(picture, "size", None) or type(picture).__name__)


def chunks_of(
    model: HookedMultimodal, data: Data | Mapping[str, torch.Tensor] | torch.Tensor, prompt: str | None, batch_size: int
) -> Iterator[DataChunk]:
    """A dataset in chunks of so many samples; a batch as one.

    Args:
        model: the hooked model.
        data: either.
        prompt: for samples that bring none.
        batch_size: samples in a chunk.
    """
    if isinstance(data, MultimodalBatch | Mapping | torch.Tensor):
        yield DataChunk(model, 0, prepared=model.batch(data))
        return
    samples, first = as_samples(data, prompt=prompt), 0
    while chunk := list(islice(samples, batch_size)):
        yield DataChunk(model, first, chunk)
        first += len(chunk)


def shared_chunks(
    model: HookedMultimodal,
    chunks: Iterable[DataChunk],
    work: Callable[[DataChunk], Result],
    *,
    checkpoint: Checkpoint,
    desc: str,
    total: int | None = None,
    progress: bool = True,
) -> Iterator[tuple[DataChunk, Result]]:
    """Do the work of every chunk of a dataset, in one of the processes of a launch; gives what comes of it, in their order.

    What the caller makes of a result goes into the checkpoint before the next is asked for. Chunks that were finished before
    are not given again.

    Args:
        model: the hooked model.
        chunks: of the dataset.
        work: from a chunk to its result, which pickles and lies on the CPU.
        checkpoint: keeps which chunks are finished, under `desc`.
        desc: names the data, and the progress bar.
        total: how many samples there are, if that is known.
        progress: show a progress bar over samples.

    Raises:
        InputError: if a sample is not the one that an interrupted run found in its place.
    """
    finished: list[str] = checkpoint.parts.setdefault("finished", {}).setdefault(desc, [])
    finished_keys = list(finished)
    step = partial(_keyed, work, finished_keys, checkpoint)
    identity = partial(_described, desc)
    is_whole = True
    try:
        with ProgressBar(total=total, desc=desc, disable=not progress) as bar:
            for (number, chunk), (key, result) in shared(enumerate(chunks), step, process_of(model), run=identity):
                if number >= len(finished_keys):
                    is_whole = False
                    yield chunk, result
                    is_whole = True
                    finished.append(key)
                    checkpoint.save()
                bar.update(chunk.size)
    finally:
        if is_whole:  # what is in force is what is finished
            checkpoint.save(now=True)


def _keyed(
    work: Callable[[DataChunk], Any], known: Sequence[str], checkpoint: Checkpoint, numbered: tuple[int, DataChunk]
) -> tuple[str, Any]:
    """What a chunk is, if that has to be told, and what comes of it unless it is finished."""
    number, chunk = numbered
    key = "" if checkpoint.path is None else chunk.key
    if number >= len(known):
        return key, work(chunk)
    if key != known[number]:
        raise InputError(
            f"{checkpoint.path} holds a run over other data: the samples {chunk.first} to {chunk.first + chunk.size - 1} were "
            "others then. Go on with the dataset that it was begun with, use another file, or delete it."
        )
    return key, None


def _described(desc: str, turn: Sequence[tuple[int, DataChunk]]) -> str:
    return f"{desc} {', '.join(chunk.glance for _, chunk in turn)}"
