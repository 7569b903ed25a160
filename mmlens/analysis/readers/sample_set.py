"""A data set that was read from files: samples that are made when they are asked for, in a fixed order."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, overload

import numpy as np

from mmlens.analysis.readers.picture_folder import MissingPictures, PictureFolder, few
from mmlens.analysis.samples.sample import Sample
from mmlens.core.contract import checked
from mmlens.core.errors import InputError
from mmlens.core.kinds import Count, Seed, Text


class SampleSet(Sequence[Sample]):
    """The samples of a data set, each made when it is asked for: its picture stays on the disk until then.

    Indexing gives a sample, slicing another set: `data[:100]`.

    Args:
        title: what was read.
        records: of which samples are made, one each.
        make: a sample of a record.
        missing: names of pictures that were not there, and whose samples were left out.
    """

    def __init__(
        self, title: str, records: Sequence[Any], make: Callable[[Any], Sample], missing: tuple[str, ...] = ()
    ):
        self.title, self.missing = title, missing
        self._records, self._make = records, make

    def __repr__(self) -> str:
        absent = f"; {len(self.missing):,} left out, their pictures are not there" if self.missing else ""
        return f"SampleSet({self.title}: {len(self):,} samples{absent})"

    def __len__(self) -> int:
        return len(self._records)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> "SampleSet": ...
    @checked
    def __getitem__(self, index: int | slice) -> "Sample | SampleSet":
        if isinstance(index, slice):
            return self._of(range(len(self))[index])
        return self._make(self._records[index])

    def _of(self, rows: Sequence[int]) -> "SampleSet":
        return SampleSet(self.title, [self._records[row] for row in rows], self._make, self.missing)

    @checked
    def draw(self, n: Count, seed: Seed = 0) -> "SampleSet":
        """So many samples drawn at random without repetition, in the order of the file.

        Args:
            n: how many.
            seed: of the draw.

        Raises:
            InputError: if there are fewer.
        """
        if n > len(self):
            raise InputError(f"n={n} samples cannot be drawn from {len(self)}.")
        return self._of(np.sort(np.random.default_rng(seed).choice(len(self), n, replace=False)).tolist())

    @checked
    def by(self, type: Text) -> "dict[str, SampleSet]":
        """The samples of each kind as a set of its own, by the kind's name: what reports take as groups.

        Args:
            type: which, as in `Sample.types`: `"answer_type"`, `"subset"`, `"scenario"`.

        Raises:
            InputError: if a sample has no such type.
        """
        rows: dict[str, list[int]] = {}
        for row in range(len(self)):
            types = self[row].types
            if type not in types:
                types_text = f"it has {', '.join(map(repr, types))}" if types else "it has none"
                raise InputError(f"Sample {row} has no type {type!r}: {types_text}.")
            rows.setdefault(types[type], []).append(row)
        return {kind: self._of(rows_of_kind) for kind, rows_of_kind in sorted(rows.items())}


def picture_samples(
    title: str,
    records: Sequence[Any],
    pictures_of: Callable[[Any], Sequence[str]],
    make: Callable[[Any, Path], Sample],
    folder: PictureFolder,
    missing: MissingPictures,
) -> SampleSet:
    """The set of samples with one picture each, which are all found before any is read.

    Args:
        title: what was read.
        records: of which samples are made.
        pictures_of: the names that the picture of a record may have.
        make: a sample of a record and its picture.
        folder: where pictures are.
        missing: what to do about those that are not there.

    Raises:
        InputError: if pictures are missing, all or (`"error"`) any; if there are no records.
    """
    if not records:
        raise InputError(f"{title} holds no samples.")
    pairs, absent = [], []
    for record in records:
        names = pictures_of(record)
        path = folder.find(names)
        if path is None:
            absent.append(names[0])
        else:
            pairs.append((record, path))
    gaps = tuple(dict.fromkeys(absent))
    if gaps and (missing == "error" or not pairs):
        rest = "" if missing == "skip" else " missing='skip' leaves their samples out."
        raise InputError(
            f"{len(gaps):,} pictures that {title} names are not under {folder.path}: {few(gaps)}. {folder.content()}{rest}"
        )
    return SampleSet(title, pairs, partial(_made, make), gaps)


def _made(make: Callable[[Any, Path], Sample], pair: tuple[Any, Path]) -> Sample:
    return make(*pair)
