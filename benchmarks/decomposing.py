"""Semi-NMF beside scikit-learn's dictionary learning, on the same formula: `||Z - UV||^2 + penalty ||V||_1`.

Each with its time and the formula's value that it reached. Scikit-learn is stopped after some rounds where it would go on for
long; the table says where. The ratio of times is then what it is at least, and the objectives are compared as far as
scikit-learn had come.
"""

import statistics
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from sklearn.decomposition import DictionaryLearning
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits

import mmlens as mm
from benchmarks.measure import Ratio
from benchmarks.table import Row
from mmlens.analysis.concepts.semi_nmf import semi_nmf

SAMPLES, WIDTH, CONCEPTS = 2000, 4096, 20
PENALTY = 1.0


def planted(generator: torch.Generator) -> torch.Tensor:
    """Sums of 20 unit vectors with half-normal weights, and noise: what semi-NMF assumes."""
    vectors = torch.nn.functional.normalize(torch.randn(CONCEPTS, WIDTH, generator=generator), dim=1)
    codes = 10 * torch.randn(SAMPLES, CONCEPTS, generator=generator).relu()
    return codes @ vectors + 0.05 * torch.randn(SAMPLES, WIDTH, generator=generator)


def clusters(generator: torch.Generator) -> torch.Tensor:
    """20 clusters around a common mean: what k-means assumes."""
    centres = 0.3 * torch.randn(CONCEPTS, WIDTH, generator=generator)
    owner = torch.randint(0, CONCEPTS, (SAMPLES,), generator=generator)
    mean = 0.5 * torch.randn(WIDTH, generator=generator)
    return centres[owner] + mean + 0.1 * torch.randn(SAMPLES, WIDTH, generator=generator)


def power_law(generator: torch.Generator) -> torch.Tensor:
    """300 directions whose sizes fall off slowly, around a mean: no structure that either assumes."""
    directions = torch.linalg.qr(torch.randn(WIDTH, 300, generator=generator)).Q
    sizes = 100 * torch.arange(1, 301).float() ** -0.8
    return (torch.randn(SAMPLES, 300, generator=generator) * sizes) @ directions.T + torch.randn(
        WIDTH, generator=generator
    )


def lab_states(generator: torch.Generator) -> torch.Tensor:
    """States of the lab model that predict a noun; 192 wide."""
    scenes = mm.lab.scenes(SAMPLES + SAMPLES // 20, seed=1)  # some captions have no noun
    store = mm.collect(mm.lab.load(), scenes, at="blocks.4.hook_resid_post", token=mm.lab.NOUNS, batch_size=32)
    return store.at().values[:SAMPLES]


@dataclass(frozen=True)
class Data:
    """States to decompose.

    Attributes:
        make: makes them, from a seeded generator.
        rounds: most rounds of scikit-learn; 5000, as published, where it comes to its end in a minute.
    """

    make: Callable[[torch.Generator], torch.Tensor]
    rounds: int = 5000


DATA = {
    "planted": Data(planted),
    "clusters": Data(clusters),
    "power law": Data(power_law, 150),
    "lab": Data(lab_states, 200),
}


def objective(values: torch.Tensor, vectors: torch.Tensor, codes: torch.Tensor) -> float:
    """The formula's value, in float64."""
    left = values.double() - codes.double() @ vectors.double()
    return float(left.square().sum() + PENALTY * codes.double().abs().sum())


def decomposing(*, clock: Callable[[], float]) -> Iterator[list[Row]]:
    """Both on each data set."""
    # scikit-learn's products run on threads that are not torch's
    with threadpool_limits(torch.get_num_threads()):
        for name, data in DATA.items():
            yield _decomposition(name, data.make(torch.Generator().manual_seed(0)), max_iter=data.rounds, clock=clock)


def _decomposition(name: str, values: torch.Tensor, *, max_iter: int, clock: Callable[[], float]) -> list[Row]:
    """Ours beside scikit-learn's on one data set."""
    times = []
    for _ in range(3):
        start = clock()
        ours = semi_nmf(values, CONCEPTS, penalty=PENALTY)
        times.append(clock() - start)
    taken = statistics.median(times)
    # scikit-learn's formula is half of this one: its alpha is half of the penalty
    options = {"positive_code": True, "fit_algorithm": "cd", "transform_algorithm": "lasso_cd"}
    alpha = PENALTY / 2
    theirs = DictionaryLearning(
        CONCEPTS, alpha=alpha, transform_alpha=alpha, max_iter=max_iter, random_state=0, **options
    )
    start = clock()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        codes = torch.from_numpy(theirs.fit_transform(values.numpy()))
    limit = clock() - start
    mine = objective(values, ours.vectors, ours.codes)
    other = objective(values, torch.from_numpy(theirs.components_), codes)
    benchmark = f"semi-NMF {list(values.shape)}, {CONCEPTS} concepts ({name})"
    stopped = ", where it was stopped" if theirs.n_iter_ >= max_iter else ""
    return [
        Row(
            benchmark, "scikit-learn", 1e3 * limit, note=f"objective {other:.2f} after {theirs.n_iter_} rounds{stopped}"
        ),
        Row(
            benchmark,
            "mmlens",
            1e3 * taken,
            Ratio(taken / limit, taken / limit, taken / limit),
            target=1 / 20,
            note=f"objective {mine:.2f}: {'no worse' if mine <= other * (1 + 1e-5) else 'WORSE'} ({mine / other - 1:+.1e})",
        ),
    ]
