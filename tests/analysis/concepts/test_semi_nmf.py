"""Semi-NMF minimises the printed formula, at least as well as scikit-learn, and finds a dictionary that was planted."""

import warnings

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment, nnls
from sklearn.decomposition import DictionaryLearning, sparse_encode
from sklearn.exceptions import ConvergenceWarning

from mmlens import lab
from mmlens.analysis.concepts.semi_nmf import nonnegative_codes, semi_nmf
from mmlens.analysis.store.collect import collect


def objective(values: torch.Tensor, vectors: torch.Tensor, codes: torch.Tensor, penalty: float) -> float:
    """The formula as printed, in float64."""
    left = values.double() - codes.double() @ vectors.double()
    return float(left.square().sum() + penalty * codes.double().abs().sum())


def planted(
    samples: int = 400, width: int = 64, concepts: int = 6, *, noise: float = 0.02, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """States that are sums of a few unit vectors with weights that are not negative; and the vectors."""
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.nn.functional.normalize(torch.randn(concepts, width, generator=generator), dim=1)
    present = torch.rand(samples, concepts, generator=generator) < 0.35
    codes = present * (2 + 6 * torch.rand(samples, concepts, generator=generator))
    return codes @ vectors + noise * torch.randn(samples, width, generator=generator), vectors


def matched_cosines(found: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    cosine = torch.nn.functional.normalize(found, dim=1) @ torch.nn.functional.normalize(truth, dim=1).T
    rows, columns = linear_sum_assignment(-cosine.numpy())
    return cosine[rows, columns]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_planted_dictionary_is_found_and_its_unplanted_twin_is_not(seed: int) -> None:
    values, vectors = planted(seed=seed)
    found = semi_nmf(values, 6, penalty=0.1, seed=seed)
    assert float(matched_cosines(found.vectors, vectors).min()) >= 0.99
    generator = torch.Generator().manual_seed(seed)
    twin = torch.randn(values.shape, generator=generator) * values.std()
    assert float(matched_cosines(semi_nmf(twin, 6, penalty=0.1).vectors, vectors).max()) < 0.7


def test_the_objective_never_rises_and_the_constraints_hold() -> None:
    values, _ = planted(noise=1.0)
    found = semi_nmf(values, 8, penalty=1.0)
    steps = np.diff(found.objective)
    assert (steps <= 1e-9 * found.objective[0]).all()
    assert bool((found.codes >= 0).all())
    assert float(found.vectors.norm(dim=1).max()) <= 1 + 1e-6
    exact = objective(values, found.vectors, found.codes, 1.0)
    assert exact <= found.objective[-1] * (1 + 1e-6)
    assert found.objective[-1] == pytest.approx(exact, rel=1e-4)


@pytest.mark.parametrize(("data", "penalty"), [("planted", 0.5), ("planted", 2.0), ("noise", 0.5), ("lab", 1.0)])
def test_it_is_no_worse_than_scikit_learn_on_the_same_formula(data: str, penalty: float) -> None:
    if data == "lab":
        store = collect(
            lab.load(), lab.scenes(40), at="blocks.4.hook_resid_post", token=lab.NOUNS, batch_size=40, progress=False
        )
        values = store.at().values
    else:
        values = (
            planted(120, 32, 5, noise=0.3)[0]
            if data == "planted"
            else torch.randn(120, 32, generator=torch.Generator().manual_seed(0))
        )
    # scikit-learn minimises half of the formula: 1/2 ||.||^2 + alpha |.|, so alpha is half of the penalty
    options = {"positive_code": True, "fit_algorithm": "cd", "transform_algorithm": "lasso_cd"}
    theirs = DictionaryLearning(
        5, alpha=penalty / 2, transform_alpha=penalty / 2, max_iter=100, random_state=0, **options
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        codes = theirs.fit_transform(values.numpy())
    limit = objective(values, torch.from_numpy(theirs.components_), torch.from_numpy(codes), penalty)
    found = semi_nmf(values, 5, penalty=penalty)
    assert objective(values, found.vectors, found.codes, penalty) <= limit * (1 + 1e-5)


def test_codes_are_those_of_scikit_learn_for_the_same_dictionary() -> None:
    values, vectors = planted(60, 32, 5, noise=0.5)
    found = nonnegative_codes(vectors @ vectors.T, vectors @ values.T, 1.0).T
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        theirs = sparse_encode(values.numpy(), vectors.numpy(), algorithm="lasso_cd", alpha=0.5, positive=True)
    torch.testing.assert_close(found, torch.from_numpy(theirs).float(), atol=2e-3, rtol=1e-3)
    free = nonnegative_codes(vectors @ vectors.T, vectors @ values.T, 0.0).T
    for row, state in zip(free[:10], values[:10], strict=True):
        exact, _ = nnls(vectors.T.double().numpy(), state.double().numpy())
        np.testing.assert_allclose(row.numpy(), exact, atol=1e-3)


def test_chunks_give_what_the_whole_gives() -> None:
    values, _ = planted(100, 32, 4, noise=0.2)
    whole, chunked = semi_nmf(values, 4), semi_nmf(values.half(), 4, batch_size=17)
    assert objective(values, chunked.vectors, chunked.codes, 1.0) == pytest.approx(
        objective(values, whole.vectors, whole.codes, 1.0), rel=1e-3
    )
    again = semi_nmf(values, 4)
    assert torch.equal(again.vectors, whole.vectors)
    assert torch.equal(again.codes, whole.codes)


def test_a_concept_that_nothing_needs_stays_out_of_the_way() -> None:
    """States along one ray, three concepts: no NaN, and the ray is explained."""
    ray = torch.nn.functional.normalize(torch.ones(16), dim=0)
    values = torch.linspace(1, 5, 30)[:, None] * ray
    found = semi_nmf(values, 3, penalty=0.01)
    assert bool(found.vectors.isfinite().all())
    torch.testing.assert_close(found.codes @ found.vectors, values, atol=0.02, rtol=0)
