"""One state explained by its concepts, and concepts compared from layer to layer."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmlens.analysis.concepts.bank import ConceptBank, word_overlap
from mmlens.analysis.concepts.extract import extract_concepts
from mmlens.analysis.concepts.method import ConceptChoice
from mmlens.analysis.concepts.words import Keep, concept_words
from mmlens.analysis.store.states import States
from mmlens.analysis.store.store import ActivationStore
from mmlens.core.contract import checked
from mmlens.core.errors import InputError
from mmlens.core.kinds import Count
from mmlens.core.saved import Saved
from mmlens.core.view import Viewable
from mmlens.models.hooked import WritingModel

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class StateExplanation(Viewable, Saved):
    """The concepts that a state holds most of.

    Attributes:
        token: the word that the state predicts.
        concepts: their numbers, strongest first.
        activations: how active each is.
        words: what each writes.
        unexplained: the share of the state's energy that all concepts together leave unexplained.
    """

    token: str
    concepts: tuple[int, ...]
    activations: tuple[float, ...]
    words: tuple[tuple[str, ...], ...]
    unexplained: float

    def __repr__(self) -> str:
        entries = zip(self.concepts, self.activations, self.words, strict=True)
        lines = [f"  {number}: {value:.3g}  {', '.join(words)}" for number, value, words in entries]
        return "\n".join([f"StateExplanation({self.token!r}, {self.unexplained:.1%} of its energy left)", *lines])

    def to_frame(self) -> "pd.DataFrame":
        """A row per concept: its number, how active it is, and what it writes."""
        import pandas as pd

        words = [", ".join(words) for words in self.words]
        return pd.DataFrame({"concept": self.concepts, "activation": self.activations, "words": words})


@checked
def explain_state(
    model: WritingModel,
    bank: ConceptBank,
    states: States,
    *,
    k: Count = 3,
    words: Count = 8,
    through_norm: bool = True,
    keep: Keep | None = None,
) -> StateExplanation:
    """The k concepts with the largest |v_k| in one state.

    Args:
        model: the hooked model.
        bank: its concepts.
        states: one state of the bank's point; `states[:1]` of several.
        k: concepts to name.
        words: words of each.
        through_norm, keep: as for `concept_words`.

    Raises:
        InputError: for more than one state.

    Source: Parekh et al., NeurIPS 2024 (https://arxiv.org/abs/2406.08074), section 3.4.
    """
    if len(states) != 1:
        raise InputError(f"One state is explained at a time, found {len(states)}; choose one: states[:1].")
    if not 1 <= k <= len(bank):
        raise InputError(f"k={k} must lie in 1..{len(bank)}, the number of concepts.")
    activation = bank.activations(states)[0]
    best = activation.abs().topk(k).indices.tolist()
    bank_words = concept_words(model, bank, k=words, through_norm=through_norm, keep=keep)
    values = states.values.float()
    rest = float((values - bank.decode(bank.encode(states))).square().sum() / values.square().sum())
    return StateExplanation(
        states.tokens[0] if states.tokens else "",
        tuple(best),
        tuple(activation[best].tolist()),
        tuple(tuple(bank_words[concept]) for concept in best),
        rest,
    )


@dataclass(frozen=True)
class ConceptSweep(Viewable, Saved):
    """Concepts at several points.

    Attributes:
        points: the points.
        banks: the concepts of each.
        words: per point and concept.
    """

    points: tuple[str, ...]
    banks: tuple[ConceptBank, ...]
    words: tuple[tuple[tuple[str, ...], ...], ...]

    def to_frame(self) -> "pd.DataFrame":
        """A row per point: reconstruction error, overlap of the concepts' words, and how many words of `k` there are."""
        import pandas as pd

        rows = [
            {
                "point": point,
                "reconstruction_error": bank.reconstruction_error,
                "overlap": word_overlap(bank_words) if len(bank_words) > 1 else float("nan"),
                "words": sum(map(len, bank_words)) / len(bank_words),
            }
            for point, bank, bank_words in zip(self.points, self.banks, self.words, strict=True)
        ]
        return pd.DataFrame(rows)


@checked
def sweep_concepts(
    model: WritingModel,
    store: ActivationStore,
    n_concepts: Count = 20,
    *,
    method: ConceptChoice = "semi_nmf",
    words: Count = 10,
    through_norm: bool = True,
    keep: Keep | None = None,
) -> ConceptSweep:
    """Concepts at every point of a store: where they come to have words, and how well few of them explain the states.

    Args:
        model: the hooked model.
        store: of several points of the stream, e.g. `at="blocks.*.hook_resid_post"`.
        n_concepts, method: as for `extract_concepts`.
        words, through_norm, keep: as for `concept_words`.

    Source: the layer ablation of Parekh et al., NeurIPS 2024 (https://arxiv.org/abs/2406.08074), appendix.
    """
    banks = [extract_concepts(store.at(point), n_concepts, method=method) for point in store.points]
    bank_words = [concept_words(model, bank, k=words, through_norm=through_norm, keep=keep) for bank in banks]
    return ConceptSweep(store.points, tuple(banks), tuple(tuple(map(tuple, of_bank)) for of_bank in bank_words))
