"""The rows that a dictionary is trained on: states in memory or in files, mixed across samples, whole pictures held out.

    buffers of up to 65,536 rows  =  spans of 512 rows that follow each other in their files, drawn from anywhere

A pass reads every span once, in an order that the seed and the pass decide, and mixes the rows of a buffer. So what is in memory
is one buffer, and any step of a run can be come back to without the steps before it.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil
from typing import TypeAlias

import numpy as np
import torch

from mmlens.analysis.store.mapped import MappedStates
from mmlens.analysis.store.states import States
from mmlens.analysis.store.store import ActivationStore
from mmlens.core.errors import InputError
from mmlens.core.identity import identity_of

#: States of one point, in memory or in files.
PointStates: TypeAlias = States | MappedStates
#: What dictionaries are trained on.
TrainingData: TypeAlias = States | MappedStates | ActivationStore | Sequence[States | MappedStates | ActivationStore]

_SPAN, _SPANS = 512, 128
#: Rows that are held out together where nobody says which picture they are of.
_TOGETHER = 8


@dataclass(frozen=True)
class TrainingRows:
    """Rows of what a dictionary gives back, with those of what it reads.

    Attributes:
        targets: pieces of it, states of one point each.
        sources: what a transcoder reads, piece by piece; empty for an autoencoder.
        held_out: the share of pictures that are not trained on.
        seed: decides which these are, and the order.
    """

    targets: tuple[PointStates, ...]
    sources: tuple[PointStates, ...]
    held_out: float
    seed: int

    @classmethod
    def of(
        cls, states: TrainingData, at: str | None, source: str | PointStates | None, *, held_out: float, seed: int
    ) -> "TrainingRows":
        """The rows of stores or states.

        Raises:
            InputError: if there are none, their widths differ, or source and target are not of the same rows.
        """
        pieces = [states] if isinstance(states, States | MappedStates | ActivationStore) else list(states)
        if not pieces:
            raise InputError("There are no states to train on: pass a store from mm.collect, states of it, or several.")
        targets = tuple(_states_of(piece, at) for piece in pieces)
        if isinstance(source, str):
            stores = [piece for piece in pieces if isinstance(piece, ActivationStore)]
            if len(stores) < len(pieces):
                raise InputError(
                    f"source={source!r} names a point of a store; beside states of one point pass those of the source."
                )
            sources = tuple(
                _states_of(piece, _stored(piece, source, target.at)) for piece, target in zip(stores, targets)
            )
        else:
            sources = () if source is None else (source,)
        if sources and len(sources) != len(targets):
            raise InputError(f"source= is of one set of states, and there are {len(targets)}; name a point of stores.")
        rows = cls(targets, sources, held_out, seed)
        rows._require_alike()
        return rows

    def _require_alike(self) -> None:
        for pieces in (self.targets, self.sources):
            flat = [piece.at for piece in pieces if len(piece.values.shape) < 2]
            if flat:
                raise InputError(f"States must be [sample width], and those at {flat[0]} are one number each.")
            shapes = {(piece.at, tuple(piece.values.shape[1:])) for piece in pieces}
            if len(shapes) > 1:
                shapes_text = ", ".join(f"{list(shape)} at {at}" for at, shape in sorted(shapes))
                raise InputError(
                    f"A dictionary is of states of one point and width, found {shapes_text}; name one: at=..."
                )
        for target, source in zip(self.targets, self.sources):
            is_paired = len(target) == len(source) and target.keys == source.keys and target.steps == source.steps
            if not is_paired:
                raise InputError(
                    f"What is read and what is written must be of the same rows, found {len(source)} at {source.at} and "
                    f"{len(target)} at {target.at}, or other samples or positions; collect both points together."
                )
        if len(self) < 2:
            raise InputError(f"There is {len(self)} state; a dictionary is trained on many.")

    def __len__(self) -> int:
        return sum(map(len, self.targets))

    @cached_property
    def identity(self) -> str:
        """What the rows are, in a few letters."""
        pieces = [
            (piece.at, piece.source, piece.keys, piece.steps, piece.values[:_SPAN])
            for piece in (*self.targets, *self.sources)
        ]
        return identity_of((pieces, [len(piece) for piece in self.targets], self.held_out, self.seed))

    @cached_property
    def _out(self) -> tuple[torch.Tensor, ...]:
        """By piece, which rows are held out: all of some names or keys, by a hash of each, and of several one at least."""
        groups = [_groups(piece, number) for number, piece in enumerate(self.targets)]
        shares = {group: _share(f"{self.seed}|{group}") for labels in groups for group in labels}
        out = {group for group, share in shares.items() if share < self.held_out}
        if not out and self.held_out and len(shares) > 1:
            out = {min(shares, key=shares.__getitem__)}
        if len(shares) == 1 and self.held_out < 1:  # one picture is trained on
            out = set()
        return tuple(torch.tensor([group in out for group in labels]) for labels in groups)

    @property
    def count(self) -> int:
        """Rows that are trained on."""
        return len(self) - self.held_count

    @property
    def held_count(self) -> int:
        """Rows that are held out."""
        return int(sum(int(mask.sum()) for mask in self._out))

    @cached_property
    def _spans(self) -> list[tuple[int, slice]]:
        return [
            (number, slice(start, min(start + _SPAN, len(piece))))
            for number, piece in enumerate(self.targets)
            for start in range(0, len(piece), _SPAN)
        ]

    def _plan(self, epoch: int) -> list[np.ndarray]:
        """The spans of each buffer of a pass."""
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self._spans))
        return np.array_split(order, ceil(len(order) / _SPANS))

    def batches(self, epoch: int, size: int) -> list[int]:
        """Of each buffer of a pass, how many batches of about `size` rows it gives."""
        counts = [int((~self._out[number][rows]).sum()) for number, rows in self._spans]
        return [ceil(sum(counts[span] for span in spans) / size) for spans in self._plan(epoch)]

    def buffer(self, epoch: int, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The rows of a buffer, what is read and what is to be given back, mixed."""
        x, y = self._read(self._plan(epoch)[number], held=False)
        order = torch.from_numpy(np.random.default_rng([self.seed, epoch, number]).permutation(len(y)))
        y = y[order]
        return (x[order] if self.sources else y), y

    def held_rows(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """The rows that are held out, a buffer at a time."""
        for spans in np.array_split(np.arange(len(self._spans)), ceil(len(self._spans) / _SPANS)):
            x, y = self._read(spans, held=True)
            if len(y):
                yield x, y

    def _read(self, spans: np.ndarray, *, held: bool) -> tuple[torch.Tensor, torch.Tensor]:
        xs, ys = [], []
        for number, rows in (self._spans[span] for span in spans):
            mask = self._out[number][rows] == held
            if mask.any():
                ys.append(self.targets[number].values[rows].flatten(1).float()[mask])
                if self.sources:
                    xs.append(self.sources[number].values[rows].flatten(1).float()[mask])
        y = torch.cat(ys) if ys else torch.zeros(0, 1)
        return (torch.cat(xs) if xs else y), y


def _groups(piece: PointStates, number: int) -> list[str]:
    """By row, what is held out together: the caller's name of the sample, else its pixels and prompt, else the rows around it."""
    if not piece.keys:
        return [f"{number}|{row // _TOGETHER}" for row in range(len(piece))]
    return [name or key for name, key in zip(piece.names or piece.keys, piece.keys, strict=True)]


def _share(text: str) -> float:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") / 2**64


def _states_of(piece: States | MappedStates | ActivationStore, at: str | None) -> PointStates:
    """The states of a point; of a store in memory or in files alike, read when they are asked for."""
    if isinstance(piece, ActivationStore):
        return piece.mapped(at)
    if at not in (None, piece.at):
        raise InputError(f"at={at!r}, and these are states at {piece.at}; leave at= out, or pass the store.")
    return piece


def _stored(store: ActivationStore, source: str, target: str) -> str:
    """The name under which a store holds what an MLP receives."""
    inner_name = f"{target}.hook_sae_input"
    return inner_name if source not in store.points and inner_name in store.points else source
