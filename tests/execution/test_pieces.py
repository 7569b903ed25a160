"""The rows of one sample in an activation, read and written, against indexing by hand."""

import itertools

import pytest
import torch

from mmlens.execution.cells import Piece

ENTRIES, HEADS, ROWS, WIDTH = 3, 4, 5, 2


def activation(axis: int) -> torch.Tensor:
    """`[entry pos d]`, or with heads in front of the positions `[entry head pos d]`."""
    shape = (ENTRIES, ROWS, WIDTH) if axis == 1 else (ENTRIES, HEADS, ROWS, WIDTH)
    return torch.arange(float(torch.Size(shape).numel())).reshape(shape)


def cells_of(axis: int, pairs: list[tuple[int, int]]) -> list[tuple[object, ...]]:
    """The indices of (entry, row) pairs."""
    return [(entry, row) if axis == 1 else (entry, slice(None), row) for entry, row in pairs]


@pytest.mark.parametrize("axis", [1, 2])
@pytest.mark.parametrize("entries", [[0], [2], [0, 2]])
@pytest.mark.parametrize("rows", [None, [1, 3], [4]])
def test_rows_of_entries(axis: int, entries: list[int], rows: list[int] | None) -> None:
    """All of them, or the same in each entry; a single entry has no axis."""
    whole = activation(axis)
    piece = Piece(entries, None if rows is None else torch.tensor(rows), axis)
    found = piece.of(whole)
    numbers = list(range(ROWS)) if rows is None else rows
    by_entry = [[whole[index] for index in cells_of(axis, [(e, r) for r in numbers])] for e in entries]
    expected = torch.stack([torch.stack(cells, axis - 1) for cells in by_entry])
    assert torch.equal(found, expected[0] if len(entries) == 1 else expected)
    changed = piece.put(whole.clone(), -found - 1)
    for entry, row in itertools.product(range(ENTRIES), range(ROWS)):
        (index,) = cells_of(axis, [(entry, row)])
        is_meant = entry in entries and row in numbers
        assert torch.equal(changed[index], -whole[index] - 1 if is_meant else whole[index])


@pytest.mark.parametrize("axis", [1, 2])
@pytest.mark.parametrize("pairs", [[(0, 1), (2, 4), (2, 0)], [(1, 1)]])
def test_pairs_are_taken_together_as_rows_of_one_entry(axis: int, pairs: list[tuple[int, int]]) -> None:
    whole = activation(axis)
    piece = Piece([0, 1, 2], torch.tensor(pairs), axis)
    found = piece.of(whole)
    assert torch.equal(found, torch.stack([whole[index] for index in cells_of(axis, pairs)], axis - 1))
    changed = piece.put(whole.clone(), -found - 1)
    for cell in itertools.product(range(ENTRIES), range(ROWS)):
        (index,) = cells_of(axis, [cell])
        assert torch.equal(changed[index], -whole[index] - 1 if cell in pairs else whole[index])


@pytest.mark.parametrize("rows", [None, [1, 3]])
def test_without_a_batch_axis(rows: list[int] | None) -> None:
    whole = activation(1)[0]
    piece = Piece(None, None if rows is None else torch.tensor(rows), 0)
    found = piece.of(whole)
    assert torch.equal(found, whole if rows is None else whole[rows])
    changed = piece.put(whole.clone(), -found - 1)
    expected = whole.clone()
    expected[slice(None) if rows is None else rows] = -found - 1
    assert torch.equal(changed, expected)
