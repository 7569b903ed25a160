"""Semi-NMF: states as sums of a few directions with weights that are never negative.

    min over U, V of  ||Z - U V||_F^2 + penalty * ||V||_1    with V >= 0 and ||u_k|| <= 1

Here samples are rows: `values [sample d_model]` are about `codes [sample concept] @ vectors [concept d_model]`.

Source: Parekh et al., "A Concept-Based Explainability Framework for Large Multimodal Models", NeurIPS 2024
(https://arxiv.org/abs/2406.08074), equation 2. Solved by block coordinate descent, a row of U or V at a time in closed form
(hierarchical alternating least squares: Cichocki and Phan, IEICE Transactions 2009), extrapolated and restarted when the
objective rises (Ang and Gillis, "Accelerating Nonnegative Matrix Factorization Algorithms using Extrapolation", 2019,
https://arxiv.org/abs/1805.06604).
Departs: the published code hands the problem to scikit-learn, whose objective is half of this one at `penalty = 2 * alpha`, so
that its alpha of 1 is a penalty of 2.

The states enter only through their products with U and V. Most steps are therefore made in the span of the leading principal
directions, where these cost little; the last ones see all of the states, so what is minimised is the formula above.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import torch
from jaxtyping import Float

from mmlens.analysis.store.mapped import MappedRows

#: States in memory, or in files.
Values: TypeAlias = Float[torch.Tensor, "sample d_model"] | MappedRows

#: Principal directions that the early steps see, per concept and besides.
_PER_CONCEPT, _BESIDES = 4, 40
#: How many more steps are made there.
_CHEAPER = 4
_STARTS = 2


@dataclass(frozen=True)
class Factors:
    """A solution.

    Attributes:
        vectors: U transposed; each at most one long.
        codes: V transposed; not negative.
        objective: the formula's value after each step of the last stage; never rises.
    """

    vectors: Float[torch.Tensor, "concept d_model"]
    codes: Float[torch.Tensor, "sample concept"]
    objective: tuple[float, ...]


class Chunked:
    """States that may be larger than the device or than memory: they meet vectors and codes a chunk at a time.

    Args:
        values: the states, on any device, in any dtype, or in files.
        device: where products are computed.
        batch_size: samples at a time; None for all at once.
    """

    def __init__(self, values: Values, *, device: torch.device, batch_size: int | None = None):
        self.values = values if batch_size is not None else values[:].to(device, torch.float32)
        self.device = device
        self.batch_size = len(values) if batch_size is None else batch_size
        self.energy = sum(float(chunk.double().square().sum()) for _, chunk in self.chunks())

    def __len__(self) -> int:
        return len(self.values)

    def chunks(self) -> Iterator[tuple[slice, Float[torch.Tensor, "sample d_model"]]]:
        """The rows of each chunk, and their states on the device."""
        for start in range(0, len(self), self.batch_size):
            rows = slice(start, start + self.batch_size)
            yield rows, self.values[rows].to(self.device, torch.float32)

    def onto(self, vectors: Float[torch.Tensor, "concept d_model"]) -> Float[torch.Tensor, "concept sample"]:
        """Products of the vectors with all states."""
        return torch.cat([vectors @ chunk.T for _, chunk in self.chunks()], dim=1)

    def weighted_sums(self, codes: Float[torch.Tensor, "concept sample"]) -> Float[torch.Tensor, "concept d_model"]:
        """Sums of the states, weighted by codes."""
        return sum((codes[:, rows] @ chunk for rows, chunk in self.chunks()), codes.new_zeros(()))


def semi_nmf(
    values: Values,
    n_concepts: int,
    *,
    penalty: float = 1.0,
    seed: int = 0,
    tolerance: float = 1e-6,
    max_steps: int = 500,
    device: torch.device | str | None = None,
    batch_size: int | None = None,
) -> Factors:
    """Decompose states by semi-NMF; see this module's docstring.

    Args:
        values: the states, `[sample d_model]`.
        n_concepts: number of vectors.
        penalty: lambda.
        seed: of the starting points.
        tolerance: stop when a step lowers the objective by less than this share of it.
        max_steps: at most, over all of the states; four times as many in the leading directions.
        device: where to compute; by default where the states are, and the CPU for states in files.
        batch_size: samples on the device at a time (and in memory, for states in files); None for all.

    Returns:
        Vectors and codes. Codes are exact for their vectors: encoding the same states gives them again.
    """
    device_of_states = values.device if isinstance(values, torch.Tensor) else "cpu"
    data = Chunked(values, device=torch.device(device_of_states if device is None else device), batch_size=batch_size)
    small, basis = _leading(data, _PER_CONCEPT * n_concepts + _BESIDES, seed)
    trials = []
    for start in range(_STARTS):
        generator = torch.Generator().manual_seed(seed + start)
        first = _opposed(small, n_concepts) if start == 0 else _spread(small, n_concepts, generator)
        trials.append(_descend(small, first, penalty, tolerance, -(-max_steps // 5)))
    vectors, codes, _ = min(trials, key=lambda trial: trial[2][-1])
    vectors, codes, _ = _descend(small, vectors, penalty, tolerance, _CHEAPER * max_steps, codes)
    vectors, codes, history = _descend(data, vectors @ basis, penalty, tolerance, max_steps, codes)
    exact = nonnegative_codes(vectors @ vectors.T, data.onto(vectors), penalty, start=codes)
    return Factors(vectors, exact.T.contiguous(), tuple(history))


def nonnegative_codes(
    gram: Float[torch.Tensor, "concept concept"],
    products: Float[torch.Tensor, "concept sample"],
    penalty: float,
    *,
    start: Float[torch.Tensor, "concept sample"] | None = None,
    tolerance: float = 1e-6,
    max_sweeps: int = 1000,
) -> Float[torch.Tensor, "concept sample"]:
    """The codes `v >= 0` that minimise `||z - U v||^2 + penalty * sum(v)`, for many samples at once.

    Args:
        gram: products of the vectors with each other.
        products: of the vectors with the states.
        penalty: lambda.
        start: codes to start from; zero by default.
        tolerance: stop when a sweep moves no code by more than this share of the limit.
        max_sweeps: at most.
    """
    codes = torch.zeros_like(products) if start is None else start.clone()
    for _ in range(max_sweeps):
        before = codes.clone()
        _sweep_codes(codes, gram, products, penalty)
        if float((codes - before).abs().max()) <= tolerance * float(codes.max()):
            break
    return codes


def _sweep_codes(codes: torch.Tensor, gram: torch.Tensor, products: torch.Tensor, penalty: float) -> None:
    """Set each row of the codes to its best value, given the others."""
    for k, norm in enumerate(gram.diagonal().tolist()):
        if norm > 0:
            rest = torch.addmv(products[k], codes.T, gram[k], alpha=-1)
            codes[k] = (codes[k] + (rest - penalty / 2) / norm).clamp_min_(0)
        else:
            codes[k] = 0


def _sweep_vectors(vectors: torch.Tensor, overlap: torch.Tensor, weighted_sums: torch.Tensor) -> None:
    """Set each vector to its best value within the unit ball, given the others.

    The objective is a round bowl in each vector, so the best point of the ball is the projection of the bowl's lowest.
    """
    for k, norm in enumerate(overlap.diagonal().tolist()):
        if norm > 0:
            best = vectors[k] + torch.addmv(weighted_sums[k], vectors.T, overlap[k], alpha=-1) / norm
            vectors[k] = best / best.norm().clamp_min(1)


def _descend(
    data: Chunked,
    vectors: torch.Tensor,
    penalty: float,
    tolerance: float,
    max_steps: int,
    codes: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, list[float]]:
    """Alternate until the objective settles; returns vectors, codes and the objective after each step."""
    codes = nonnegative_codes(vectors @ vectors.T, data.onto(vectors), penalty, start=codes, max_sweeps=10)
    ahead = codes
    history: list[float] = []
    push, limit = 0.5, 1.0
    for _ in range(max_steps):
        new_vectors = vectors.clone()
        _sweep_vectors(new_vectors, ahead @ ahead.T, data.weighted_sums(ahead))
        extrapolation = new_vectors + push * (new_vectors - vectors)
        extrapolation /= extrapolation.norm(dim=1, keepdim=True).clamp_min(1)
        gram, products = extrapolation @ extrapolation.T, data.onto(extrapolation)
        new_codes = ahead.clone()
        for _ in range(2):
            _sweep_codes(new_codes, gram, products, penalty)
        objective = _objective(data.energy, gram, products, new_codes, penalty)
        if history and objective > history[-1]:
            if push == 0:
                break  # a plain step cannot rise but by rounding: settled
            ahead, limit, push = codes, max(push / 2, 0.1), 0.0
            continue
        ahead = (new_codes + push * (new_codes - codes)).clamp_min_(0)
        vectors, codes = extrapolation, new_codes
        push, limit = (0.5 * limit if push == 0 else min(limit, 1.05 * push)), min(1.0, 1.01 * limit)
        history.append(objective)
        if len(history) > 5 and history[-6] - history[-1] < 5 * tolerance * abs(history[-1]):
            break
    return vectors, codes, history


def _objective(energy: float, gram: torch.Tensor, products: torch.Tensor, codes: torch.Tensor, penalty: float) -> float:
    """The formula's value, from products alone."""
    fit = (products.double() * codes.double()).sum()
    size = (gram.double() * (codes @ codes.T).double()).sum()
    return energy + float(size - 2 * fit) + penalty * float(codes.double().sum())


def _leading(data: Chunked, count: int, seed: int) -> tuple[Chunked, Float[torch.Tensor, "direction d_model"]]:
    """The states in the coordinates of about as many leading principal directions, and these directions."""
    width = data.values.shape[1]
    count = min(count, width, len(data))
    generator = torch.Generator().manual_seed(seed)
    basis = torch.randn(count, width, generator=generator).to(data.device)
    for _ in range(2):  # power iterations
        basis = data.weighted_sums(data.onto(basis))
        basis = torch.linalg.qr(basis.T).Q.T
    coordinates = data.onto(basis).T.contiguous()
    return Chunked(coordinates, device=data.device), basis


def _opposed(data: Chunked, count: int) -> torch.Tensor:
    """Both ends of the leading principal directions, the best filled first."""
    u, sizes, v = torch.linalg.svd(data.values[:], full_matrices=False)
    ends = torch.cat([v, -v])
    energy = torch.cat([u.clamp_min(0).norm(dim=0), (-u).clamp_min(0).norm(dim=0)]) * torch.cat([sizes, sizes])
    best = energy.topk(min(count, len(energy))).indices
    return ends[best.repeat(-(-count // len(best)))[:count]].clone()


def _spread(data: Chunked, count: int, generator: torch.Generator) -> torch.Tensor:
    """Directions of samples that are drawn so that each is badly explained by the ones before."""
    values = data.values[:]
    sizes = values.norm(dim=1, keepdim=True).clamp_min(1e-12)
    units = values / sizes
    residual = sizes.squeeze(1).square()
    picks = []
    for _ in range(count):
        weight = residual.cpu().double().clamp_min(1e-12)
        pick = int(torch.multinomial(weight, 1, generator=generator))
        picks.append(pick)
        residual = torch.minimum(
            residual, sizes.squeeze(1).square() * (1 - (units @ units[pick]).clamp_min(0).square())
        )
    return units[picks].clone()
