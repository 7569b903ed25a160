"""Exclusivity: how many of a noun's neurons no other noun has, over many pictures of each."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int

from mmlens.analysis.nouns.caption_nouns import Nouns
from mmlens.analysis.properties.cases import MethodChoice, NeuronChoice, NounNeurons
from mmlens.analysis.properties.measurements import Measurements
from mmlens.analysis.properties.noun_occurrences import CaptionSettings
from mmlens.analysis.properties.quantities import Quantity, Value, is_control
from mmlens.analysis.properties.run import run
from mmlens.analysis.samples.sample import Dataset
from mmlens.core.contract import checked
from mmlens.core.errors import InputError
from mmlens.core.kinds import Count, Fraction, Several
from mmlens.core.saved import Saved
from mmlens.core.unit_sets import Units
from mmlens.core.view import Viewable
from mmlens.models.hooked import WritingModel

if TYPE_CHECKING:
    import pandas as pd

_SHUFFLE = ", nouns shuffled"

#: NAM's thresholds: the probability of being crucial to another concept that still counts as specific.
KAPPAS = (0.10, 0.15, 0.20, 0.25, 0.30, 0.35, 0.40, 0.45)


@dataclass(frozen=True)
class Exclusivity(Viewable, Saved):
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
    neurons: Int[torch.Tensor, "concept k"],
    *,
    kappas: Sequence[float] = KAPPAS,
) -> Exclusivity:
    """Count the neurons that belong to one concept alone.

    Args:
        concepts: their names.
        crucial: per concept the probability that a neuron is crucial to it: the share of its pictures in whose top k the
            neuron is.
        neurons: per concept the numbers of its k neurons.
        kappas: thresholds for the second view.

    Raises:
        InputError: for fewer than two concepts, or shapes that do not fit them.

    Source: two variants of one measure, Fang et al., "Towards Neuron Attributions in Multi-Modal Large Language Models"
    (NAM), NeurIPS 2024, section on specificity; that of Pan et al., 2024, could not be read.
    """
    if len(concepts) < 2 or len(crucial) != len(concepts) or len(neurons) != len(concepts):
        raise InputError(
            f"Exclusivity compares at least two concepts, one row each; found {len(concepts)} names, {len(crucial)} rows of "
            f"probabilities and {len(neurons)} of neurons."
        )
    member = torch.zeros_like(crucial, dtype=torch.bool).scatter_(1, neurons, True)
    owners = member.sum(0)
    exclusive = (owners[neurons] == 1).float().mean(1)
    elsewhere = (crucial.sum(0, keepdim=True) - crucial) / (len(concepts) - 1)
    probabilities = elsewhere.gather(1, neurons)
    below = torch.stack([(probabilities < kappa).float().mean(1) for kappa in kappas], dim=1)
    return Exclusivity(tuple(concepts), exclusive, below, tuple(kappas), neurons.shape[1])


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
        quantities = []
        for name in self._names():
            quantities.append(Quantity(name, "share of neurons", control=name + _SHUFFLE))
            quantities.append(Quantity(name + _SHUFFLE, "share of neurons", better="lower"))
        return quantities

    def _names(self) -> list[str]:
        return ["exclusive to the noun", *(f"crucial to other nouns with p < {kappa:g}" for kappa in self.kappas)]

    def over_all(self, nouns: Sequence[NounNeurons]) -> Iterator[Value]:
        """Count, over all pictures of each noun, how often each neuron was chosen for it.

        Random neurons come back for no noun, and would seem exclusive to each; so the control are not they, but the same
        neurons with the nouns dealt out to the pictures anew.
        """
        counts = Counter(noun.noun for noun in nouns)
        frequent = [noun for noun in nouns if counts[noun.noun] >= self.pictures]
        names = [noun.noun for noun in frequent]
        if len(set(names)) < 2:
            return
        order = torch.randperm(len(names), generator=torch.Generator().manual_seed(0)).tolist()
        for method in frequent[0].neurons:
            if not is_control(method):
                sets = [noun.neurons[method][: self.k] for noun in frequent]
                yield from self._counted(names, sets, method, "")
                yield from self._counted([names[i] for i in order], sets, method, _SHUFFLE)

    def _counted(self, nouns: Sequence[str], sets: Sequence[Units], method: str, end: str) -> Iterator[Value]:
        concepts = list(dict.fromkeys(nouns))
        number = {neuron: i for i, neuron in enumerate(sorted({neuron for neurons in sets for neuron in neurons}))}
        crucial = torch.zeros(len(concepts), len(number))
        ranks = torch.zeros_like(crucial)
        for noun, neurons in zip(nouns, sets, strict=True):
            for rank, neuron in enumerate(neurons):
                crucial[concepts.index(noun), number[neuron]] += 1 / nouns.count(noun)
                ranks[concepts.index(noun), number[neuron]] += 1 - rank / len(neurons)
        # most often chosen first; of those chosen equally often, the better ranked
        best = (crucial + 1e-4 * ranks / (1 + ranks.max())).topk(self.k, dim=1).indices
        result = exclusivity(concepts, crucial, best, kappas=self.kappas)
        for row, noun in enumerate(concepts):
            shares = [result.exclusive[row], *result.below[row]]
            for name, share in zip(self._names(), shares, strict=True):
                yield Value(name + end, method, self.k, float(share), -1, noun)


@checked
def noun_exclusivity(
    model: WritingModel,
    dataset: Dataset,
    *,
    methods: MethodChoice = ("contribution",),
    k: Count = 20,
    pictures: Count = 3,
    kappas: Several[Fraction] = (0.10, 0.25, 0.45),
    nouns: Nouns = None,
    progress: bool = True,
) -> Measurements:
    """Count how many of each noun's neurons are no other noun's, over a dataset.

    A noun's neurons are the k that are most often among the top k of its pictures.

    Args:
        model: the hooked model.
        dataset: samples, several with the same nouns; see `mmlens.analysis.samples.sample`.
        methods: how neurons are chosen.
        k: how many of each noun; NAM took 500 of several hundred thousand.
        pictures: nouns said of fewer pictures are left out.
        kappas: thresholds of the probability of being crucial to other nouns.
        nouns: as for `mm.neurons.caption_nouns`.
        progress: show a progress bar.

    Returns:
        Per noun the exclusive share, and the share below each threshold; beside each the same with the nouns dealt out to
        the pictures anew.

    Raises:
        InputError: if fewer than two nouns have enough pictures.

    Example:
        >>> from mmlens import lab
        >>> found = noun_exclusivity(model, lab.scenes(2), k=5, pictures=1, nouns=lab.NOUNS, progress=False)
        >>> 0 <= found.interval("exclusive to the noun", "contribution").mean <= 1
        True

    Source: as for `exclusivity`.
    """
    measures = [Exclusive(k, pictures, tuple(kappas))]
    return run(
        model, dataset, measures, NeuronChoice.of(methods, k), settings=CaptionSettings(nouns), progress=progress
    )
