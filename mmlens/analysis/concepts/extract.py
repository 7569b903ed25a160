"""`extract_concepts`, and how many of them to ask for."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from mmlens.analysis.concepts.bank import ConceptBank
from mmlens.analysis.concepts.methods import CONCEPT_METHODS, ConceptChoice, ConceptMethod
from mmlens.analysis.store.mapped import MappedStates
from mmlens.analysis.store.states import States
from mmlens.analysis.store.store import ActivationStore
from mmlens.core.contract import checked
from mmlens.core.errors import InputError
from mmlens.core.kinds import Count, Fraction, Several
from mmlens.core.saved import Saved
from mmlens.core.view import Viewable

if TYPE_CHECKING:
    import pandas as pd


@checked
@torch.no_grad()
def extract_concepts(
    states: States | MappedStates | ActivationStore,
    n_concepts: Count = 20,
    *,
    method: ConceptChoice = "semi_nmf",
    batch_size: Count | None = None,
) -> ConceptBank:
    """Find a few directions that explain the states of a word.

        Z ~ U V    (states, here in columns; concepts U; how much of each concept a state holds, V)

    Args:
        states: from `collect(...)`: a store of one point, or `store.at(point)`; `store.mapped(point)` for more states than
            memory holds, which needs a `batch_size`.
        n_concepts: how many.
        method: `"semi_nmf"`, `"kmeans"`, `"pca"`, `"nmf"` (for states that are never negative), `"simple"` (the baseline), or
            settings: `mm.concepts.SemiNMF(penalty=0.1)`. docs/methods.md lists them. The same settings give the same concepts.
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
    """
    point_states = states.at() if isinstance(states, ActivationStore) else states
    finder = CONCEPT_METHODS.get(method)
    _check(point_states, n_concepts, finder, batch_size)
    fit = finder.fit(point_states.values, n_concepts, batch_size)
    return ConceptBank.of(
        fit.coder, point_states, method=finder.name, settings=finder.settings, objective=fit.objective, codes=fit.codes
    )


def _check(states: States | MappedStates, n_concepts: int, method: ConceptMethod, batch_size: int | None) -> None:
    shape = tuple(states.values.shape)
    if len(shape) != 2:
        raise InputError(
            f"Concepts are directions of states [sample d_model], but those at {states.at} are {list(shape)}; "
            "choose a point of the stream, or flatten them: dataclasses.replace(states, values=states.values.flatten(1))."
        )
    largest = min(shape)
    if not 1 <= n_concepts <= largest:
        raise InputError(
            f"n_concepts={n_concepts} must lie in 1..{largest}: there are {len(states)} states of width {shape[1]}."
        )
    if batch_size is not None and batch_size < 1:
        raise InputError(f"batch_size={batch_size} must be at least 1, or None for all states at once.")
    if batch_size is None and isinstance(states, MappedStates):
        raise InputError(
            f"These {len(states)} states are in files; pass a batch_size that says how many to read at a time, or take them into "
            "memory by store.at(point)."
        )
    method.check(n_concepts, batch_size)
    size = batch_size or len(states)
    for start in range(0, len(states), size):
        values = states.values[start : start + size]
        wrong = (start + (~values.isfinite().all(1)).nonzero().flatten()).tolist()
        if wrong:
            raise InputError(f"The states {wrong[:5]} are not finite.")
        method.check_states(values)


@dataclass(frozen=True)
class ConceptCount(Viewable, Saved):
    """What is left of the states with more and more concepts.

    Attributes:
        numbers: numbers of concepts that were tried, rising.
        errors: the reconstruction error of each, 0 to 1.
        n_concepts: the smallest number whose error is at most `1 - drop` times that of the first.
        drop: the share of the error that has to go.
    """

    numbers: tuple[int, ...]
    errors: tuple[float, ...]
    n_concepts: int
    drop: float

    def to_frame(self) -> "pd.DataFrame":
        """A row per number: error, and the share of the first one's that is gone."""
        import pandas as pd

        drops = [1 - error / self.errors[0] for error in self.errors]
        return pd.DataFrame({"n_concepts": self.numbers, "reconstruction_error": self.errors, "drop": drops})


@checked
def choose_n_concepts(
    states: States | ActivationStore,
    *,
    numbers: Several[Count] = (1, 2, 3, 5, 8, 12, 16, 20, 25, 30),
    drop: Fraction = 0.5,
    method: ConceptChoice = "semi_nmf",
) -> ConceptCount:
    """How many concepts it takes until half of the reconstruction error is gone.

    Args:
        states: as for `extract_concepts`.
        numbers: to try; the first is what the others are compared with.
        drop: the share of the first one's error that has to go.
        method: as for `extract_concepts`.

    Returns:
        Errors, and the number.

    Raises:
        InputError: if no number reaches the drop; says how far they came.

    Source: Parekh et al., NeurIPS 2024 (https://arxiv.org/abs/2406.08074), appendix on the choice of K: the smallest that
    lowers the error by at least 50%.
    *Departs:* the paper does not say lowered from where; here from the first number tried, a single concept by default.
    """
    candidates = sorted(set(numbers))
    if len(candidates) < 2 or not 0 < drop < 1:
        raise InputError(
            f"Choosing takes two numbers and a drop between 0 and 1; found numbers={candidates}, drop={drop}."
        )
    point_states = states.at() if isinstance(states, ActivationStore) else states
    banks = (extract_concepts(point_states, number, method=method) for number in candidates)
    errors = tuple(bank.reconstruction_error for bank in banks)
    sufficient = [number for number, error in zip(candidates, errors, strict=True) if error <= (1 - drop) * errors[0]]
    if not sufficient:
        raise InputError(
            f"With {candidates[-1]} concepts {errors[-1] / errors[0]:.0%} of the error of {candidates[0]} is left, so a drop of "
            f"{drop:.0%} is not reached; try larger numbers, or a smaller drop."
        )
    return ConceptCount(tuple(candidates), errors, sufficient[0], drop)
