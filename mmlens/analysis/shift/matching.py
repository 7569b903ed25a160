"""Which concept of the tuned model belongs to which of the base model."""

from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int, Real
from scipy.optimize import linear_sum_assignment, linprog
from scipy.sparse import csr_array, eye_array, kron, vstack

from mmlens.core.contract import checked
from mmlens.core.errors import InputError, MMLensError

#: How concepts are matched; see `match_concepts`.
Match = Literal["hungarian", "greedy", "optimal_transport"]


@checked
def match_concepts(
    base: Float[torch.Tensor, "concept d_model"],
    targets: Float[torch.Tensor, "other d_model"],
    *,
    match: Match = "hungarian",
    masses: tuple[Real[torch.Tensor, "concept"], Real[torch.Tensor, "other"]] | None = None,
) -> Int[torch.Tensor, "concept"]:
    """The tuned concept that belongs to each base concept, by cosine.

    - `"hungarian"`: one to one, with the highest sum of cosines.
    - `"greedy"`: each base concept the nearest one; two may share one.
    - `"optimal_transport"`: the concepts' shares of the samples are moved with the least cost, `1 - cosine` per share; each
      base concept belongs to the one that gets most of it. Two may share one. Solved exactly, as a linear program.

    Args:
        base, targets: concepts.
        match: how.
        masses: how many samples each concept has, base and tuned; alike by default. For optimal transport.

    Returns:
        Per base concept the number of a tuned one, or -1 for none: where there are fewer tuned concepts than base ones, or
        where a concept without samples is transported.

    Raises:
        InputError: for another way to match.

    Example:
        >>> match_concepts(torch.eye(3), torch.eye(3)[[2, 0, 1]]).tolist()
        [1, 2, 0]

    Source: Khayatan et al., ICCV 2025 (https://arxiv.org/abs/2501.03012): cosine similarity, one to one; the published code has
    the Hungarian method.
    """
    cosines = cosine_table(base, targets)
    if match == "greedy":
        return cosines.argmax(1)
    if match == "hungarian":
        partners = torch.full((len(base),), -1)
        rows, columns = linear_sum_assignment(-cosines.numpy())
        partners[torch.from_numpy(rows)] = torch.from_numpy(columns)
        return partners
    sides = masses or (torch.ones(len(base)), torch.ones(len(targets)))
    plan = transport(1 - cosines, sides[0], sides[1])
    return torch.where(plan.sum(1) > 0, plan.argmax(1), -1)


def cosine_table(
    base: Float[torch.Tensor, "concept d_model"], targets: Float[torch.Tensor, "other d_model"]
) -> Float[torch.Tensor, "concept other"]:
    """The cosine of each pair, in double precision."""
    units = [torch.nn.functional.normalize(vectors.double(), dim=1) for vectors in (base, targets)]
    return units[0] @ units[1].T


def transport(
    cost: Float[torch.Tensor, "concept other"],
    origin_masses: Real[torch.Tensor, "concept"],
    target_masses: Real[torch.Tensor, "other"],
) -> Float[torch.Tensor, "concept other"]:
    """The plan that moves the shares `origin_masses` to the shares `target_masses` with the least cost: exact optimal transport.

        min_P sum_ij P_ij cost_ij    with  sum_j P_ij = left_i / sum(left),  sum_i P_ij = right_j / sum(right),  P >= 0

    Args:
        cost: of moving a unit from i to j.
        origin_masses, target_masses: not negative; scaled to sum to 1.

    Returns:
        How much of i goes to j.

    Raises:
        InputError: for masses that are negative, or all zero.
    """
    masses = []
    for mass in (origin_masses, target_masses):
        if bool((mass < 0).any()) or float(mass.sum()) <= 0:
            raise InputError(f"Masses must not be negative, and not all zero; found {mass.tolist()}.")
        masses.append(mass.double().numpy() / float(mass.double().sum()))
    rows, columns = cost.shape
    by_row = kron(eye_array(rows), np.ones((1, columns)))
    by_column = kron(np.ones((1, rows)), eye_array(columns))
    # the last equation follows from the others; leaving it out spares the solver from rounding that contradicts it
    equations = csr_array(vstack([by_row, by_column]))[:-1]
    solution = linprog(cost.double().numpy().ravel(), A_eq=equations, b_eq=np.concatenate(masses)[:-1], method="highs")
    if solution.x is None:
        raise MMLensError(f"The linear program of optimal transport was not solved: {solution.message}")
    return torch.from_numpy(solution.x.reshape(rows, columns)).clamp_min(0)
