"""Specificity: whether the neurons of one word are that word's own, or every word's.

Two views. `specific_neurons` weighs each neuron's score for a word by how much less it scores for other words, to choose
rows that can be edited without moving the others. `exclusivity` counts, over many concepts, how many of a concept's
neurons no other concept has.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Float, Int

from mmlens.analysis.neurons.scores import NeuronScores
from mmlens.analysis.properties.cases import Chosen
from mmlens.analysis.properties.measured import CONTROL, Quantity, Value
from mmlens.core.errors import InputError
from mmlens.core.places import Neuron

if TYPE_CHECKING:
    import pandas as pd

_SHUFFLED = ", nouns shuffled"

#: NAM's thresholds: the probability of being crucial to another concept that still counts as specific.
KAPPAS = (0.10, 0.15, 0.20, 0.25, 0.30, 0.35, 0.40, 0.45)


def specificity(
    wanted: NeuronScores, others: Sequence[NeuronScores], *, over: Literal["max", "mean"] = "max"
) -> Float[torch.Tensor, "layer neuron"]:
    """How much of what each neuron does for a word or other words is done for the word alone, 0 to 1.

        specificity[l, i] = c[l, i] / (c[l, i] + c_others[l, i]),    c = max(score, 0)

    Args:
        wanted: the word's scores, where the word is about to be said.
        others: scores of other words, each found where that word is about to be said.
        over: `"max"`: against the other word that the neuron serves most; `"mean"`: against the average other word.

    Returns:
        1 for neurons that only serve the word, 0.5 for those that serve another just as much, 0 for those that do not
        serve it.

    Raises:
        InputError: if there are no others, or scores of different shapes.
    """
    if not others:
        raise InputError("Specificity needs the scores of at least one other word to compare with; others is empty.")
    wrong = sorted({str(list(each.scores.shape)) for each in others if each.scores.shape != wanted.scores.shape})
    if wrong:
        raise InputError(
            f"The word's scores are {list(wanted.scores.shape)} [layer neuron], others have {', '.join(wrong)}; they must come "
            "from one model."
        )
    own = wanted.scores.clamp(min=0)
    against = torch.stack([each.scores.clamp(min=0) for each in others])
    rest = against.amax(0) if over == "max" else against.mean(0)
    return torch.where(own > 0, own / (own + rest).clamp(min=torch.finfo(own.dtype).tiny), 0.0)


def specific_neurons(
    wanted: NeuronScores,
    others: Sequence[NeuronScores],
    *,
    k: int = 20,
    sharpness: float = 1.0,
    over: Literal["max", "mean"] = "max",
) -> list[Neuron]:
    """The k neurons that are strong for a word and weak for others: the highest `score * specificity ** sharpness`.

    Args:
        wanted: the word's scores.
        others: scores of other words, each where that word is about to be said.
        k: how many.
        sharpness: 0 gives the plain top k; larger values prefer neurons of the word's own.
        over: as for `specificity`.

    Raises:
        InputError: for a k outside 1..number of neurons, a negative sharpness, or what `specificity` refuses.

    Example:
        >>> from mmlens import find_neurons
        >>> circle, square = (find_neurons(model, batch, token=word) for word in ("circle", "square"))
        >>> len(specific_neurons(circle, [square], k=5))
        5

    Source: the two factors are those of Pan et al., "Finding and Editing Multi-Modal Neurons in Pre-Trained Transformers",
    Findings of ACL 2024 (https://arxiv.org/abs/2311.07470).
    *Departs:* the paper reports contribution and specificity side by side; their product is our way to choose.
    """
    if not 1 <= k <= wanted.scores.numel():
        raise InputError(f"k={k} must lie in 1..{wanted.scores.numel()}, the number of neurons.")
    if sharpness < 0:
        raise InputError(f"sharpness={sharpness} must not be negative.")
    weighed = wanted.scores * specificity(wanted, others, over=over) ** sharpness
    best = weighed.flatten().topk(k).indices.tolist()
    return [Neuron(*divmod(i, wanted.scores.shape[1])) for i in best]


@dataclass(frozen=True)
class Exclusivity:
    """How many of each concept's neurons are its own.

    Attributes:
        concepts: the concepts.
        exclusive: per concept the share of its neurons that are among no other concept's, 0 to 1.
        below: per concept and threshold, the share of its neurons whose probability of being crucial to another concept
            (the mean over the others) lies below the threshold.
        kappas: the thresholds.
        k: neurons per concept.
    """

    concepts: tuple[str, ...]
    exclusive: Float[torch.Tensor, "concept"]
    below: Float[torch.Tensor, "concept kappa"]
    kappas: tuple[float, ...]
    k: int

    def __repr__(self) -> str:
        return (
            f"Exclusivity({len(self.concepts)} concepts, {self.k} neurons each; exclusive {float(self.exclusive.mean()):.3f}, "
            f"below kappa={self.kappas[0]:g} {float(self.below[:, 0].mean()):.3f})"
        )

    def to_frame(self) -> "pd.DataFrame":
        """One row per concept: exclusive share, and the share below each threshold."""
        import pandas as pd

        below = {f"below {kappa:g}": self.below[:, n].tolist() for n, kappa in enumerate(self.kappas)}
        return pd.DataFrame({"concept": self.concepts, "exclusive": self.exclusive.tolist(), **below})


def exclusivity(
    concepts: Sequence[str],
    crucial: Float[torch.Tensor, "concept neuron"],
    chosen: Int[torch.Tensor, "concept k"],
    *,
    kappas: Sequence[float] = KAPPAS,
) -> Exclusivity:
    """Count the neurons that belong to one concept alone.

    Args:
        concepts: their names.
        crucial: per concept the probability that a neuron is crucial to it: the share of its pictures in whose top k the
            neuron is.
        chosen: per concept the numbers of its k neurons.
        kappas: thresholds for the second view.

    Raises:
        InputError: for fewer than two concepts, or shapes that do not fit them.

    Source: two variants of one measure, Fang et al., "Towards Neuron Attributions in Multi-Modal Large Language Models"
    (NAM), NeurIPS 2024, section on specificity; that of Pan et al., 2024, could not be read.
    """
    if len(concepts) < 2 or len(crucial) != len(concepts) or len(chosen) != len(concepts):
        raise InputError(
            f"Exclusivity compares at least two concepts, one row each; found {len(concepts)} names, {len(crucial)} rows of "
            f"probabilities and {len(chosen)} of neurons."
        )
    member = torch.zeros_like(crucial, dtype=torch.bool).scatter_(1, chosen, True)
    owners = member.sum(0)
    exclusive = (owners[chosen] == 1).float().mean(1)
    elsewhere = (crucial.sum(0, keepdim=True) - crucial) / (len(concepts) - 1)
    own = elsewhere.gather(1, chosen)
    below = torch.stack([(own < kappa).float().mean(1) for kappa in kappas], dim=1)
    return Exclusivity(tuple(concepts), exclusive, below, tuple(kappas), chosen.shape[1])


@dataclass(frozen=True)
class Exclusive:
    """Exclusivity of the neurons of a dataset's nouns, each noun a concept.

    Attributes:
        k: neurons per noun: those that are most often among its top k.
        pictures: nouns with fewer pictures are left out.
        kappas: thresholds.
    """

    k: int
    pictures: int = 3
    kappas: tuple[float, ...] = (0.10, 0.25, 0.45)

    @property
    def quantities(self) -> Sequence[Quantity]:
        """The exclusive share, and the share below each threshold; each beside the same of pictures with shuffled nouns."""
        found = []
        for name in self._names():
            found.append(Quantity(name, "share of neurons", control=name + _SHUFFLED))
            found.append(Quantity(name + _SHUFFLED, "share of neurons", better="lower"))
        return found

    def _names(self) -> list[str]:
        return ["exclusive to the noun", *(f"crucial to other nouns with p < {kappa:g}" for kappa in self.kappas)]

    def over_all(self, chosen: Sequence[Chosen]) -> Iterator[Value]:
        """Count, over all pictures of each noun, how often each neuron was chosen for it.

        Random neurons come back for no noun, and would seem exclusive to each; so the control are not they, but the same
        neurons with the nouns dealt out to the pictures anew.
        """
        nouns = [each.noun for each in chosen]
        counts = Counter(nouns)
        kept = [i for i, noun in enumerate(nouns) if counts[noun] >= self.pictures]
        if len({nouns[i] for i in kept}) < 2:
            return
        order = torch.randperm(len(kept), generator=torch.Generator().manual_seed(0)).tolist()
        controls = {CONTROL.format(method=method) for method in chosen[0].neurons}
        for method in chosen[0].neurons:
            if method not in controls:
                sets = [chosen[i].neurons[method][: self.k] for i in kept]
                yield from self._counted([nouns[i] for i in kept], sets, method, "")
                yield from self._counted([nouns[kept[i]] for i in order], sets, method, _SHUFFLED)

    def _counted(
        self, nouns: Sequence[str], sets: Sequence[Sequence[tuple[int, int]]], method: str, end: str
    ) -> Iterator[Value]:
        concepts = list(dict.fromkeys(nouns))
        number = {neuron: i for i, neuron in enumerate(sorted({neuron for own in sets for neuron in own}))}
        crucial = torch.zeros(len(concepts), len(number))
        ranks = torch.zeros_like(crucial)
        for noun, own in zip(nouns, sets, strict=True):
            for rank, neuron in enumerate(own):
                crucial[concepts.index(noun), number[neuron]] += 1 / nouns.count(noun)
                ranks[concepts.index(noun), number[neuron]] += 1 - rank / len(own)
        # most often chosen first; of those chosen equally often, the better ranked
        best = (crucial + 1e-4 * ranks / (1 + ranks.max())).topk(self.k, dim=1).indices
        found = exclusivity(concepts, crucial, best, kappas=self.kappas)
        for row, noun in enumerate(concepts):
            shares = [found.exclusive[row], *found.below[row]]
            for name, share in zip(self._names(), shares, strict=True):
                yield Value(name + end, method, self.k, float(share), -1, noun)
