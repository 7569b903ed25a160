"""Directions between pairs of states: planted ones are found, and not in the unplanted twin; formulas by other code."""

import pytest
import torch
from sklearn.decomposition import PCA

import mmlens as mm
from mmlens.core.errors import InputError

N, D = 60, 24


def pairs(shared: float, varying: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Pairs that lie apart along one direction: by `shared` in every pair, and by `varying` times a draw."""
    generator = torch.Generator().manual_seed(0)
    direction = torch.nn.functional.normalize(torch.randn(D, generator=generator, dtype=torch.float64), dim=0)
    negative = 3 * torch.randn(N, D, generator=generator, dtype=torch.float64)
    noise = 0.2 * torch.randn(N, D, generator=generator, dtype=torch.float64)
    amount = shared + varying * torch.randn(N, generator=generator, dtype=torch.float64)
    return direction, negative, negative + noise + amount[:, None] * direction


@pytest.mark.parametrize(
    ("name", "shared", "varying", "finds"),
    [
        ("mean", 2.0, 0.0, True),
        ("pca_center", 2.0, 0.0, True),
        ("pca_diff", 2.0, 0.0, False),  # what all pairs share is taken out
        ("pca_diff", 2.0, 1.0, True),
        ("pca_center", 0.0, 0.0, False),
        ("pca_diff", 0.0, 0.0, False),
    ],
)
def test_a_planted_direction(name: str, shared: float, varying: float, finds: bool) -> None:
    planted, negative, positive = pairs(shared, varying)
    found = mm.steering.DIRECTION_METHODS.get(name).direction(negative, positive)
    cosine = float(torch.cosine_similarity(found, planted, dim=0))
    assert cosine > 0.98 if finds else abs(cosine) < 0.8


@pytest.mark.parametrize("name", ["pca_center", "pca_diff"])
def test_components_are_those_of_scikit_learn_and_point_to_the_positive_states(name: str) -> None:
    _, negative, positive = pairs(1.0, 0.7)
    difference = positive - negative
    rows = difference if name == "pca_diff" else torch.cat([difference / 2, -difference / 2])
    component = torch.from_numpy(PCA(n_components=1).fit(rows.numpy()).components_[0])
    method = mm.steering.DIRECTION_METHODS.get(name)
    found = method.direction(negative, positive)
    torch.testing.assert_close(found * torch.sign(found @ component), component)
    assert ((difference @ found) > 0).double().mean() > 0.5
    torch.testing.assert_close(method.direction(positive, negative), -found)


def test_states_that_are_no_pairs_are_refused() -> None:
    with pytest.raises(InputError, match=r"at least 2 pairs of states, found \[1, 3\] and \[1, 3\]"):
        mm.steering.PcaDiff().direction(torch.ones(1, 3), torch.zeros(1, 3))
    with pytest.raises(InputError, match="pairs of states"):
        mm.steering.MeanDifference().direction(torch.ones(2, 3), torch.zeros(3, 3))
