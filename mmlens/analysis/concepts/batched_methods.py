"""The same methods on some states at a time, for more of them than memory holds: scikit-learn's incremental ones."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from sklearn.cluster import MiniBatchKMeans
from sklearn.decomposition import IncrementalPCA, MiniBatchNMF

from mmlens.analysis.concepts.coders import Centred, Coder, Nearest, NonNegative
from mmlens.analysis.concepts.semi_nmf import Values
from mmlens.core.errors import InputError

#: How often all states are gone through; NMF settles slowly.
_KMEANS_ROUNDS, _NMF_ROUNDS = 5, 30


@dataclass(frozen=True)
class Batches:
    """States, some at a time.

    Attributes:
        values: all of them, in memory or in files.
        size: how many at a time.
    """

    values: Values
    size: int

    def __iter__(self) -> Iterator[Float[torch.Tensor, "sample d_model"]]:
        count = len(self.values)
        starts = range(0, count, self.size)
        # a short rest goes with the last batch: incremental methods need as many states as concepts in each
        starts = starts[:-1] if len(starts) > 1 and count % self.size else starts
        ends = [*starts[1:], count]
        return (self.values[start:end].float().cpu() for start, end in zip(starts, ends, strict=True))


def require_not_negative(values: Float[torch.Tensor, "sample d_model"]) -> None:
    """Refuse states that NMF cannot take.

    Raises:
        InputError: if one is negative somewhere.
    """
    if bool((values < 0).any()):
        raise InputError(
            "method='nmf' needs states that are nowhere negative (such as activations after a ReLU); these have negative "
            "values, as residual streams do. method='semi_nmf' takes any."
        )


def _kmeans(batches: Batches, n_concepts: int, seed: int) -> Coder:
    """Centres that move with each batch."""
    _require_room(batches, n_concepts)
    found = MiniBatchKMeans(n_concepts, batch_size=batches.size, n_init=10, random_state=seed)
    for _ in range(_KMEANS_ROUNDS):
        for batch in batches:
            found.partial_fit(batch.numpy())
    return Nearest(torch.from_numpy(found.cluster_centers_).float())


def _pca(batches: Batches, n_concepts: int, seed: int) -> Coder:
    """Principal components around the mean, of all batches so far."""
    _require_room(batches, n_concepts)
    found = IncrementalPCA(n_concepts)
    for batch in batches:
        found.partial_fit(batch.numpy())
    return Centred(torch.from_numpy(found.components_).float(), torch.from_numpy(found.mean_).float())


def _nmf(batches: Batches, n_concepts: int, seed: int) -> Coder:
    """Vectors and codes that are both not negative."""
    _require_room(batches, n_concepts)
    for batch in batches:
        require_not_negative(batch)
    found = MiniBatchNMF(n_concepts, init="nndsvda", batch_size=batches.size, random_state=seed)
    for _ in range(_NMF_ROUNDS):
        for batch in batches:
            found.partial_fit(batch.numpy())
    return NonNegative(torch.from_numpy(found.components_).float(), 0.0)


def _simple(batches: Batches, n_concepts: int, seed: int) -> Coder:
    """The longest states of all."""
    longest = torch.zeros(0)
    for batch in batches:
        some = torch.cat([longest, batch]) if len(longest) else batch
        longest = some[some.norm(dim=1).topk(min(n_concepts, len(some))).indices]
    return Nearest(longest.clone())


def _require_room(batches: Batches, n_concepts: int) -> None:
    if batches.size < n_concepts:
        raise InputError(f"batch_size={batches.size} must be at least n_concepts={n_concepts} for this method.")


BATCHED: dict[str, Callable[[Batches, int, int], Coder]] = {
    "kmeans": _kmeans,
    "pca": _pca,
    "nmf": _nmf,
    "simple": _simple,
}
