"""How large a store will be, told before the run."""

import shutil
from collections.abc import Sized
from dataclasses import dataclass
from pathlib import Path

import torch

from mmlens.analysis.samples.sample import Dataset, batches
from mmlens.analysis.store.at_positions import AtGenerated, AtPositions
from mmlens.analysis.store.rules import CollectedBatch, CollectionRule
from mmlens.core.errors import InputError, MMLensError
from mmlens.hooks.nodes import Selection
from mmlens.models.hooked import HookedMultimodal


@dataclass(frozen=True)
class SizeEstimate:
    """How many bytes of states a run will store, at most: every sample counts as if it had the word that is looked for.

    Attributes:
        bytes_per_sample: of one sample, judged by the first one.
        samples: how many samples there are; None where the dataset does not say.
    """

    bytes_per_sample: int
    samples: int | None

    @property
    def bytes(self) -> int | None:
        """Of the whole store; None where the number of samples is unknown."""
        return None if self.samples is None else self.bytes_per_sample * self.samples

    def __str__(self) -> str:
        per_sample = f"{self.bytes_per_sample / 2**10:.1f} KiB per sample"
        return (
            per_sample if self.bytes is None else f"{self.bytes / 2**20:.1f} MiB ({self.samples} samples, {per_sample})"
        )


def estimate(
    model: HookedMultimodal,
    dataset: Dataset,
    nodes: Selection,
    rule: CollectionRule,
    *,
    dtype: torch.dtype,
    prompt: str | None,
) -> SizeEstimate:
    """Run the first sample as far as it takes to know the size of a row.

    Raises:
        InputError: if the dataset can be read only once, or is empty.
    """
    if not (hasattr(dataset, "__getitem__") and isinstance(dataset, Sized) and len(dataset)):
        raise InputError(
            "A size can be estimated for a dataset with a length whose first sample can be looked at (a list, a Hugging Face "
            f"dataset), found {type(dataset).__name__}{' without samples' if isinstance(dataset, Sized) else ''}."
        )
    # one generated step tells the size of all
    trial: CollectionRule = rule if isinstance(rule, AtPositions) else AtGenerated("generated_mean", 1)
    samples, batch = next(batches(model, [dataset[0]], batch_size=1, prompt=prompt, progress=False))
    trial_batch = trial.take(model, nodes, samples, batch)
    return SizeEstimate(row_bytes(trial_batch, dtype) * most_rows(rule, trial_batch), len(dataset))


def row_bytes(batch: CollectedBatch, dtype: torch.dtype) -> int:
    """Bytes of one row at all points."""
    return sum(values.shape[1:].numel() for values in batch.states.values()) * dtype.itemsize


def most_rows(rule: CollectionRule, batch: CollectedBatch) -> int:
    """The most rows that a sample can give, judged by some that were taken."""
    if isinstance(rule, AtGenerated) and rule.which == "generated":
        return rule.max_new_tokens
    return max(batch.counts) if isinstance(rule, AtPositions) else 1


def require_room(
    folder: Path, rule: CollectionRule, batch: CollectedBatch, *, dtype: torch.dtype, samples: int | None
) -> None:
    """Check that what is to come fits on the disk.

    Raises:
        MMLensError: if it may not.
    """
    size = SizeEstimate(row_bytes(batch, dtype) * most_rows(rule, batch), samples)
    free = shutil.disk_usage(folder).free
    if size.bytes is not None and size.bytes > free:
        raise MMLensError(
            f"The store may take {size}, but {folder} has {free / 2**20:.1f} MiB left: free some, collect fewer points or "
            "positions, or into another folder."
        )
