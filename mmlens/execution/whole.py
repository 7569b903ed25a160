"""The plain way: every cell is a whole forward pass with hooks, one cell of each sample at a time."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from mmlens.core.errors import InputError
from mmlens.execution.cells import Cell, Change, piece_of
from mmlens.hooks.nodes import Node
from mmlens.hooks.session import HookPair
from mmlens.inputs.batch import MultimodalBatch
from mmlens.models.hooked import HookedMultimodal


def rounds(cells: Sequence[Cell], alone: Callable[[Cell], bool] = lambda cell: False) -> Iterator[list[int]]:
    """Numbers of cells that can share a forward pass of the whole batch: at most one of each sample.

    Args:
        cells: the cells.
        alone: which of them can share it with no other.
    """
    queues: dict[int, list[int]] = {}
    for number, cell in enumerate(cells):
        if alone(cell):
            yield [number]
        else:
            queues.setdefault(cell.sample, []).append(number)
    for turn in range(max(map(len, queues.values()), default=0)):
        yield [numbers[turn] for numbers in queues.values() if turn < len(numbers)]


def hooks_for(model: HookedMultimodal, batch: MultimodalBatch, cells: Sequence[Cell]) -> list[HookPair]:
    """The hooks that carry out cells of different samples in one forward pass of the batch."""
    by_point: dict[str, list[tuple[int, Change]]] = {}
    for cell in cells:
        for change in cell.changes:
            by_point.setdefault(change.at, []).append((cell.sample, change))
    return [(name, _changing(model.graph[name], batch, changes)) for name, changes in by_point.items()]


def _changing(node: Node, batch: MultimodalBatch, changes: Sequence[tuple[int, Change]]) -> Callable[..., torch.Tensor]:
    def change_rows(activation: torch.Tensor, hook: Any) -> torch.Tensor:
        for sample, change in changes:
            piece = piece_of(node, batch, sample, change.rows, activation.shape)
            activation = piece.put(activation, new_rows(change, piece.of(activation)))
        return activation

    return change_rows


def new_rows(change: Change, old: torch.Tensor) -> torch.Tensor:
    """What a change makes of its rows.

    Raises:
        InputError: if it has another shape.
    """
    new = change.apply(old)
    if new.shape != old.shape:
        raise InputError(
            f"A change at {change.at} was given {list(old.shape)} and returned {list(new.shape)}; it must keep the shape."
        )
    return new


@torch.no_grad()
def run_whole(model: HookedMultimodal, batch: MultimodalBatch, cells: Sequence[Cell]) -> torch.Tensor:
    """Logits `[batch pos vocab]` of a whole forward pass in which cells of different samples happen."""
    with model.hooks(hooks_for(model, batch, cells)):
        return with_positions(model(batch))


def with_positions(logits: torch.Tensor) -> torch.Tensor:
    """Logits `[batch pos vocab]`: scores of a dual encoder, `[picture text]`, as those of one position."""
    return logits[:, None] if logits.ndim == 2 else logits
