"""The methods that find concepts in states; all but semi-NMF and the simple one are scikit-learn's."""

import warnings
from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float
from sklearn.cluster import KMeans
from sklearn.decomposition import NMF, PCA
from sklearn.exceptions import ConvergenceWarning

from mmlens.analysis.concepts.batched_methods import BATCHED, Batches, require_not_negative
from mmlens.analysis.concepts.coders import Centred, Coder, Nearest, NonNegative
from mmlens.analysis.concepts.semi_nmf import Values, semi_nmf
from mmlens.core.errors import InputError

#: How concepts are found.
Method = Literal["semi_nmf", "kmeans", "pca", "nmf", "simple"]
_Values = Float[torch.Tensor, "sample d_model"]


def fit(
    values: Values,
    n_concepts: int,
    *,
    method: Method,
    penalty: float,
    seed: int,
    device: torch.device | str | None,
    batch_size: int | None,
) -> tuple[Coder, tuple[float, ...]]:
    """Find concepts.

    Args:
        values: the states, `[sample d_model]`.
        n_concepts: how many.
        method: how.
        penalty, device: of semi-NMF.
        seed: of starting points.
        batch_size: states at a time; None for all.

    Returns:
        The coder, and the objective after each step where the method is our own.

    Raises:
        InputError: for an unknown method, or states that it cannot take.
    """
    if method == "semi_nmf":
        found = semi_nmf(values, n_concepts, penalty=penalty, seed=seed, device=device, batch_size=batch_size)
        return NonNegative(found.vectors.cpu(), penalty), found.objective
    if method not in _METHODS:
        raise InputError(f"method={method!r} is unknown; there are 'semi_nmf', {', '.join(map(repr, _METHODS))}.")
    if batch_size is not None:
        return BATCHED[method](Batches(values, batch_size), n_concepts, seed), ()
    return _METHODS[method](values[:].float().cpu(), n_concepts, seed), ()


def _kmeans(values: _Values, n_concepts: int, seed: int) -> Coder:
    """Centres of clusters; the best of ten starts."""
    found = KMeans(n_concepts, n_init=10, random_state=seed).fit(values.numpy())
    return Nearest(torch.from_numpy(found.cluster_centers_).to(values.dtype))


def _pca(values: _Values, n_concepts: int, seed: int) -> Coder:
    """Principal components around the mean."""
    found = PCA(n_concepts, random_state=seed).fit(values.numpy())
    return Centred(torch.from_numpy(found.components_).to(values.dtype), torch.from_numpy(found.mean_).to(values.dtype))


def _nmf(values: _Values, n_concepts: int, seed: int) -> Coder:
    """Vectors and codes that are both not negative."""
    require_not_negative(values)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a fit of 1000 rounds is good enough
        found = NMF(n_concepts, init="nndsvda", max_iter=1000, random_state=seed).fit(values.numpy())
    return NonNegative(torch.from_numpy(found.components_).to(values.dtype), 0.0)


def _simple(values: _Values, n_concepts: int, seed: int) -> Coder:
    """The longest states themselves (the baseline of Parekh et al., section 4)."""
    return Nearest(values[values.norm(dim=1).topk(n_concepts).indices].clone())


_METHODS: dict[str, Callable[[_Values, int, int], Coder]] = {
    "kmeans": _kmeans,
    "pca": _pca,
    "nmf": _nmf,
    "simple": _simple,
}
