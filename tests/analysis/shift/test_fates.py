"""What becomes of concepts, on tables that are counted by hand and on planted states."""

import pytest
import torch

from mmlens.analysis.concepts.extract import extract_concepts
from mmlens.analysis.shift.fates import contingency, fates
from mmlens.analysis.shift.measures import consistency_of
from mmlens.analysis.shift.shift import concept_shift
from mmlens.analysis.store.states import States
from tests.analysis.shift.planted import AT


def test_samples_of_no_concept_are_left_out_of_the_table() -> None:
    table = contingency(torch.tensor([0, 0, 1, -1, 1]), torch.tensor([1, 1, 0, 0, -1]), (2, 3))
    assert table.tolist() == [[0, 2, 0], [1, 0, 0]]


@pytest.mark.parametrize(
    ("table", "match", "expected"),
    [
        ([[9, 1], [1, 9]], [0, 1], ("kept", "kept")),
        ([[4, 3, 3], [0, 0, 0]], [0, 1], ("refined", "empty")),  # the match holds a part of it and nothing else
        ([[6, 0], [30, 4]], [0, 1], ("expanded", "refined")),  # all of it, a sixth of the match; a part of it, alone
        ([[10, 0], [10, 1]], [0, 0], ("kept", "kept")),
        ([[10, 0], [14, 1]], [0, 0], ("expanded", "kept")),
        ([[10, 0]], [-1], ("vanished",)),
    ],
)
def test_fates_by_table(table: list[list[int]], match: list[int], expected: tuple[str, ...]) -> None:
    found, _ = fates(torch.tensor(table, dtype=torch.double), torch.tensor(match))
    assert found == expected


def test_what_scatters_has_vanished_and_what_gathers_has_appeared() -> None:
    table = torch.zeros(3, 4, dtype=torch.double)
    table[0, 0], table[1, 1] = 20, 20
    table[2, :] = torch.tensor([4, 4, 0, 2])
    table[0, 2], table[1, 2], table[2, 2] = 3, 3, 3
    found, new = fates(table, torch.tensor([0, 1, 3]))
    assert found == ("kept", "kept", "refined")
    assert new == (2,)
    assert fates(table, torch.tensor([0, 1, 2]))[0][2] == "vanished"


def test_planted_clusters_that_split_and_merge() -> None:
    """Cluster 0 stays, most of 1 leaves it for a new place, and 3 moves to where the smaller 2 is."""
    generator = torch.Generator().manual_seed(0)
    cluster = torch.arange(4).repeat_interleave(torch.tensor([20, 20, 15, 25]))
    ends = cluster.clone()
    ends[28:40] = 4
    ends[cluster == 3] = 2
    keys = tuple(map(str, range(80)))
    base, tuned = (
        States(10 * torch.eye(6)[place] + 0.1 * torch.randn(80, 6, generator=generator), AT, keys=keys)
        for place in (cluster, ends)
    )
    shift = concept_shift(base, tuned, extract_concepts(base, 4, method="kmeans"))
    fate = {int(cluster[shift.owner == k][0]): shift.fate[k] for k in range(4)}
    # the only place left to match cluster 3 is the new one, where none of it is
    assert fate == {0: "kept", 1: "refined", 2: "expanded", 3: "vanished"}


def test_consistency_leaves_out_what_does_not_move() -> None:
    moved = torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 5.0], [-1.0, 0.0]])
    assert consistency_of(moved) == pytest.approx((0 - 1 + 0) / 3)
    assert torch.isnan(torch.tensor(consistency_of(moved[:2])))
