"""Matches are the best there are: against every permutation, and against transport along a line, which is solved by sorting."""

from itertools import permutations

import numpy as np
import pytest
import torch
from scipy.stats import wasserstein_distance

from mmlens.analysis.shift.matching import cosine_table, match_concepts, transport
from mmlens.core.errors import InputError

BASE = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
TUNED = torch.randn(5, 3, generator=torch.Generator().manual_seed(1))


def test_one_to_one_has_the_highest_sum_of_cosines() -> None:
    table = cosine_table(BASE, TUNED)
    best = max(permutations(range(5)), key=lambda order: float(table[range(5), order].sum()))
    assert match_concepts(BASE, TUNED).tolist() == list(best)
    # with equal masses the cheapest plan is such an assignment
    assert match_concepts(BASE, TUNED, match="optimal_transport").tolist() == list(best)


def test_greedy_takes_the_nearest_twice_if_it_is() -> None:
    base = torch.tensor([[1.0, 0.1], [1.0, 0.2], [0.0, 1.0]])
    tuned = torch.tensor([[1.0, 0.0], [0.3, -1.0], [0.0, 2.0]])
    assert match_concepts(base, tuned, match="greedy").tolist() == [0, 0, 2]
    assert sorted(match_concepts(base, tuned).tolist()) == [0, 1, 2]


def test_concepts_without_a_partner_have_none() -> None:
    found = match_concepts(BASE, TUNED[:3]).tolist()
    assert sorted(found) == [-1, -1, 0, 1, 2]
    assert -1 not in match_concepts(BASE[:3], TUNED).tolist()


def test_the_cheapest_plan_along_a_line() -> None:
    """In one dimension, with cost |x - y|, the cheapest cost is the distance between the cumulative distributions."""
    rng = np.random.default_rng(0)
    x, y, left, right = rng.normal(size=6), rng.normal(size=4), rng.random(6), rng.random(4)
    cost = torch.from_numpy(np.abs(x[:, None] - y[None]))
    plan = transport(cost, torch.from_numpy(left), torch.from_numpy(right))
    np.testing.assert_allclose(plan.sum(1).numpy(), left / left.sum(), atol=1e-9)
    np.testing.assert_allclose(plan.sum(0).numpy(), right / right.sum(), atol=1e-9)
    assert float((plan * cost).sum()) == pytest.approx(wasserstein_distance(x, y, left, right))


def test_masses_decide_where_a_concept_goes() -> None:
    """Two base concepts lie near one tuned concept; it has room for the larger, and a little of the smaller."""
    base = torch.tensor([[1.0, 0.0], [1.0, 0.05]])
    tuned = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    masses = (torch.tensor([80, 20]), torch.tensor([85, 15]))
    assert match_concepts(base, tuned, match="optimal_transport", masses=masses).tolist() == [0, 1]
    swapped = (torch.tensor([50, 50]), torch.tensor([95, 5]))
    assert match_concepts(base, tuned, match="optimal_transport", masses=swapped).tolist() == [0, 0]
    none = (torch.tensor([100, 0]), torch.tensor([85, 15]))
    assert match_concepts(base, tuned, match="optimal_transport", masses=none).tolist() == [0, -1]
    with pytest.raises(InputError, match=r"Masses must not be negative, and not all zero; found \[0, 0\]"):
        transport(torch.zeros(2, 2), torch.tensor([0, 0]), torch.tensor([1, 1]))
