"""`extract_concepts`, and how many of them to ask for."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from mmlens.analysis.concepts.bank import ConceptBank
from mmlens.analysis.concepts.methods import Method, fit
from mmlens.analysis.store.mapped import MappedStates
from mmlens.analysis.store.states import States
from mmlens.analysis.store.store import ActivationStore
from mmlens.core.errors import InputError

if TYPE_CHECKING:
    import pandas as pd


@torch.no_grad()
def extract_concepts(
    states: States | MappedStates | ActivationStore,
    n_concepts: int = 20,
    *,
    method: Method = "semi_nmf",
    penalty: float = 1.0,
    seed: int = 0,
    device: torch.device | str | None = None,
    batch_size: int | None = None,
) -> ConceptBank:
    """Find a few directions that explain the states of a word.

        Z ~ U V    (states, here in columns; concepts U; how much of each concept a state holds, V)

    - `"semi_nmf"`: `min ||Z - UV||^2 + penalty * ||V||_1` with `V >= 0` and `||u_k|| <= 1`. The penalty is in the unit of the
      states: what counts as much depends on how long they are.
    - `"kmeans"`: the nearest of a few centres. `"pca"`: principal components. `"nmf"`: for states that are never negative.
      `"simple"`: the longest states themselves, the nearest of which stands for a state.

    Args:
        states: from `collect(...)`: a store of one point, or `store.at(point)`; `store.mapped(point)` for more states than
            memory holds, which needs a `batch_size`.
        n_concepts: how many.
        method: how.
        penalty: of semi-NMF.
        seed: of what is drawn; the same seed gives the same concepts.
        device: where semi-NMF is computed; where the states are, by default.
        batch_size: states at a time; None for all at once. Semi-NMF minimises the same formula either way; k-means, PCA and NMF
            become scikit-learn's incremental ones.

    Returns:
        The bank.

    Raises:
        InputError: if there are fewer states than concepts, or they are not finite or not flat, or in files and no
            `batch_size` says how many to read.

    Example:
        >>> import mmlens as mm
        >>> store = mm.collect(model, mm.lab.scenes(16), at="blocks.4.hook_resid_post", token=mm.lab.NOUNS, progress=False)
        >>> mm.extract_concepts(store, 3, method="kmeans").codes.sum(1).tolist() == [1.0] * 16
        True

    Source: Parekh et al., "A Concept-Based Explainability Framework for Large Multimodal Models", NeurIPS 2024
    (https://arxiv.org/abs/2406.08074), section 3.2.
    *Departs:* every method is seeded. PCA is centred, as scikit-learn's is.
    """
    made = states.at() if isinstance(states, ActivationStore) else states
    if not isinstance(made, States | MappedStates):
        raise InputError(
            f"Concepts are made of the states of one point, found {type(made).__name__}; mm.collect(...).at(point) gives them, "
            "and a tensor becomes them by mm.States(tensor, at=hook_name)."
        )
    _check(made, n_concepts, batch_size)
    if penalty < 0:
        raise InputError(f"penalty={penalty} must not be negative.")
    coder, objective = fit(
        made.values, n_concepts, method=method, penalty=penalty, seed=seed, device=device, batch_size=batch_size
    )
    return ConceptBank.of(coder, made, method=method, objective=objective)


def _check(states: States | MappedStates, n_concepts: int, batch_size: int | None) -> None:
    shape = tuple(states.values.shape)
    if len(shape) != 2:
        raise InputError(
            f"Concepts are directions of states [sample d_model], but those at {states.at} are {list(shape)}; "
            "choose a point of the stream, or flatten them: dataclasses.replace(states, values=states.values.flatten(1))."
        )
    most = min(shape)
    if not 1 <= n_concepts <= most:
        raise InputError(
            f"n_concepts={n_concepts} must lie in 1..{most}: there are {len(states)} states of width {shape[1]}."
        )
    if batch_size is not None and batch_size < 1:
        raise InputError(f"batch_size={batch_size} must be at least 1, or None for all states at once.")
    if batch_size is None and isinstance(states, MappedStates):
        raise InputError(
            f"These {len(states)} states are in files; pass a batch_size that says how many to read at a time, or take them into "
            "memory by store.at(point)."
        )
    size = batch_size or len(states)
    bad: list[int] = []
    for start in range(0, len(states), size):
        wrong = ~states.values[start : start + size].isfinite().all(1)
        bad += (start + wrong.nonzero().flatten()).tolist()
    if bad:
        raise InputError(f"The states {bad[:5]} are not finite.")


@dataclass(frozen=True)
class ConceptCount:
    """What is left of the states with more and more concepts.

    Attributes:
        numbers: numbers of concepts that were tried, rising.
        errors: the reconstruction error of each, 0 to 1.
        chosen: the smallest number whose error is at most `1 - drop` times that of the first.
        drop: the share of the error that has to go.
    """

    numbers: tuple[int, ...]
    errors: tuple[float, ...]
    chosen: int
    drop: float

    def to_frame(self) -> "pd.DataFrame":
        """A row per number: error, and the share of the first one's that is gone."""
        import pandas as pd

        gone = [1 - error / self.errors[0] for error in self.errors]
        return pd.DataFrame({"n_concepts": self.numbers, "reconstruction_error": self.errors, "drop": gone})


def choose_n_concepts(
    states: States | ActivationStore,
    *,
    numbers: Sequence[int] = (1, 2, 3, 5, 8, 12, 16, 20, 25, 30),
    drop: float = 0.5,
    method: Method = "semi_nmf",
    penalty: float = 1.0,
    seed: int = 0,
) -> ConceptCount:
    """How many concepts it takes until half of the reconstruction error is gone.

    Args:
        states: as for `extract_concepts`.
        numbers: to try; the first is what the others are compared with.
        drop: the share of the first one's error that has to go.
        method, penalty, seed: as for `extract_concepts`.

    Returns:
        Errors, and the number.

    Raises:
        InputError: if no number reaches the drop; says how far they came.

    Source: Parekh et al., NeurIPS 2024 (https://arxiv.org/abs/2406.08074), appendix on the choice of K: the smallest that
    lowers the error by at least 50%.
    *Departs:* the paper does not say lowered from where; here from the first number tried, a single concept by default.
    """
    tried = sorted(set(numbers))
    if len(tried) < 2 or not 0 < drop < 1:
        raise InputError(f"Choosing takes two numbers and a drop between 0 and 1; found numbers={tried}, drop={drop}.")
    made = states.at() if isinstance(states, ActivationStore) else states
    banks = (extract_concepts(made, number, method=method, penalty=penalty, seed=seed) for number in tried)
    errors = tuple(bank.reconstruction_error for bank in banks)
    reached = [number for number, error in zip(tried, errors, strict=True) if error <= (1 - drop) * errors[0]]
    if not reached:
        raise InputError(
            f"With {tried[-1]} concepts {errors[-1] / errors[0]:.0%} of the error of {tried[0]} is left, so a drop of {drop:.0%} "
            "is not reached; try larger numbers, or a smaller drop."
        )
    return ConceptCount(tuple(tried), errors, reached[0], drop)
