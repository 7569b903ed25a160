"""Invariance: whether a noun has the same neurons when image tokens change places, and in other pictures."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from mmlens.analysis.nouns.caption_nouns import Nouns
from mmlens.analysis.properties.cases import (
    Case,
    MethodChoice,
    NeuronChoice,
    NounNeurons,
    UnmeasurableError,
    another,
    counts,
    neuron_shares,
    repeated_cases,
)
from mmlens.analysis.properties.measurements import Measurements
from mmlens.analysis.properties.noun_occurrences import CaptionSettings
from mmlens.analysis.properties.quantities import Quantity, Value
from mmlens.analysis.properties.run import run
from mmlens.analysis.samples.sample import Dataset
from mmlens.core.contract import checked
from mmlens.core.kinds import Count, Seed, Several
from mmlens.core.unit_sets import Units
from mmlens.core.units import Unit
from mmlens.hooks.session import HookFunction, HookPair
from mmlens.models.hooked import HookedMultimodal, WritingModel

PERMUTED = Quantity(
    "shared with permuted image tokens", "share of neurons", control="shared with permuted image tokens, another noun"
)
PERMUTED_OTHER = Quantity(PERMUTED.control, "share of neurons", better="lower")
STILL_SAID = Quantity("noun said of permuted image tokens", "share of nouns", better="")
PAIRWISE = Quantity("shared by two pictures", "share of neurons", control="shared by pictures of two nouns")
PAIRWISE_OTHER = Quantity(PAIRWISE.control, "share of neurons", better="lower")


@dataclass(frozen=True)
class PermuteImage:
    """Put the rows that the projector hands on into another order, the same in every picture of one size.

    Args:
        seed: of the order.
    """

    seed: int = 0

    def hooks(self, model: HookedMultimodal) -> list[HookPair]:
        """One hook at `projector.hook_out`.

        Raises:
            UnmeasurableError: if the model's projector has no output with an axis of rows.
        """
        if "projector.hook_out" not in model.graph:
            raise UnmeasurableError(
                f"{model.family.name} has no projector.hook_out, where image tokens could change places."
            )
        return [("projector.hook_out", self._permute(model.graph["projector.hook_out"].position_axis))]

    def _permute(self, axis: int) -> HookFunction:
        def permute(activation: torch.Tensor, hook: Any) -> torch.Tensor:
            generator = torch.Generator().manual_seed(self.seed)
            order = torch.randperm(activation.shape[axis], generator=generator)
            return activation.index_select(axis, order.to(activation.device))

        return permute


@dataclass(frozen=True)
class RegionInvariance:
    """See `region_invariance`.

    Attributes:
        ks: for how many neurons the share is taken.
        settings: how samples are captioned.
        seed: of the order of image tokens.
    """

    ks: tuple[int, ...]
    settings: CaptionSettings = field(default_factory=CaptionSettings, repr=False)
    seed: int = 0

    @property
    def label(self) -> str:
        """Its name."""
        return "region invariance"

    @property
    def quantities(self) -> Sequence[Quantity]:
        """The share, its control, and how often the noun is still said."""
        return PERMUTED, PERMUTED_OTHER, STILL_SAID

    def measure(self, cases: Sequence[Case]) -> Iterator[Value]:
        """Caption the pictures again, with image tokens in another order."""
        pictures = [case for case in cases if case.occurrence.sample.images]
        if not pictures:
            return
        with pictures[0].occurrence.model.intervene(PermuteImage(self.seed)):
            twins = repeated_cases(pictures, self.settings)
        for case in pictures:
            twin_case = twins.get((case.occurrence.number, case.occurrence.noun))
            yield case.value(STILL_SAID.name, next(iter(case.choice.scoring_methods)), twin_case is not None)
            if twin_case is not None:
                other = another(list(twins.values()), twin_case)
                for k in self.ks:
                    for quantity, others in ((PERMUTED, twin_case), (PERMUTED_OTHER, other)):
                        for method, share in neuron_shares(case, others, k):
                            yield case.value(quantity.name, method, share, k=k)


@dataclass(frozen=True)
class ImageInvariance:
    """See `image_invariance`.

    Attributes:
        ks: for how many neurons the share is taken.
        together: how many pictures have to share them in the variant over all.
    """

    ks: tuple[int, ...]
    together: int = 5

    @property
    def _all(self) -> Quantity:
        return Quantity(f"shared by all of {self.together} pictures", "share of neurons")

    @property
    def quantities(self) -> Sequence[Quantity]:
        """Pairwise, its control, and over all."""
        return PAIRWISE, PAIRWISE_OTHER, self._all

    def over_all(self, nouns: Sequence[NounNeurons]) -> Iterator[Value]:
        """Compare the neurons of a noun in different pictures."""
        for method in dict.fromkeys(method for noun in nouns for method in noun.neurons):
            for k in self.ks:
                sets = [(noun, noun.neurons[method][:k]) for noun in nouns if method in noun.neurons]
                if all(len(neurons) == k for _, neurons in sets):
                    yield from self._pairwise(sets, method, k)
                    yield from self._together(sets, method, k)

    def _pairwise(self, sets: Sequence[tuple[NounNeurons, Units]], method: str, k: int) -> Iterator[Value]:
        """Mean shares over all pairs, from counts: how many pictures of each noun, and of all, have a neuron."""
        by_noun: dict[str, Counter[Unit]] = defaultdict(Counter)
        by_sample: dict[int, Counter[Unit]] = defaultdict(Counter)
        everywhere: Counter[Unit] = Counter()
        for noun, neurons in sets:
            for counter in (by_noun[noun.noun], by_sample[noun.sample], everywhere):
                counter.update(neurons)
        of_noun = Counter(noun.noun for noun, _ in sets)
        of_sample = Counter(noun.sample for noun, _ in sets)
        for noun, neurons in sets:
            n_same = of_noun[noun.noun] - 1
            if n_same:
                common = sum(by_noun[noun.noun][unit] - 1 for unit in neurons)
                yield Value(PAIRWISE.name, method, k, common / k / n_same, noun.sample, noun.noun)
            others = len(sets) - of_noun[noun.noun] - of_sample[noun.sample] + 1
            if others:
                common = sum(everywhere[u] - by_noun[noun.noun][u] - by_sample[noun.sample][u] + 1 for u in neurons)
                yield Value(PAIRWISE_OTHER.name, method, k, common / k / others, noun.sample, noun.noun)

    def _together(self, sets: Sequence[tuple[NounNeurons, Units]], method: str, k: int) -> Iterator[Value]:
        by_noun: dict[str, list[tuple[int, Units]]] = defaultdict(list)
        for noun, neurons in sets:
            by_noun[noun.noun].append((noun.sample, neurons))
        for name, pictures in by_noun.items():
            for start in range(0, len(pictures) - self.together + 1, self.together):
                group = pictures[start : start + self.together]
                common = set.intersection(*(set(neurons) for _, neurons in group))
                yield Value(self._all.name, method, k, len(common) / k, group[0][0], name)


@checked
def region_invariance(
    model: WritingModel,
    dataset: Dataset,
    *,
    methods: MethodChoice = ("contribution", "random"),
    k: Count | Several[Count] = 20,
    nouns: Nouns = None,
    draws: Count = 20,
    seed: Seed = 0,
    progress: bool = True,
) -> Measurements:
    """Compare the neurons of every noun with those found when the picture's tokens are handed on in another order.

        |top_k(picture) & top_k(permuted)| / k, over nouns said in both captions

    Args:
        model: the hooked model.
        dataset: samples with pictures; see `mmlens.analysis.samples.sample`.
        methods: how neurons are chosen; `"random"` adds random neurons beside each: of the same layers, and as active too.
        k: how many neurons; several for a curve.
        nouns: as for `mm.neurons.caption_nouns`.
        draws: how many sets of random neurons of either kind.
        seed: of the order, and of the random neurons.
        progress: show a progress bar.

    Returns:
        The share of neurons in common; beside it the share in common with another noun's, and how often the noun is
        still said at all.

    Raises:
        UnmeasurableError: if the model has no point at which image tokens are handed on.

    Example:
        >>> found = region_invariance(model, [scene], k=5, nouns=["person"], progress=False)
        >>> 0 <= found.interval("noun said of permuted image tokens", "contribution").mean <= 1
        True

    Source: Pan et al., 2024 (https://arxiv.org/abs/2311.07470), region invariance; the permutation is that of the published
    code, the share is our reading of the text.
    """
    ks = counts(k)
    settings = CaptionSettings(nouns)
    measures = [RegionInvariance(ks, settings, seed)]
    return run(
        model, dataset, measures, NeuronChoice.of(methods, max(ks), seed, draws), settings=settings, progress=progress
    )


@checked
def image_invariance(
    model: WritingModel,
    dataset: Dataset,
    *,
    methods: MethodChoice = ("contribution", "random"),
    k: Count | Several[Count] = 20,
    together: Count = 5,
    nouns: Nouns = None,
    draws: Count = 20,
    seed: Seed = 0,
    progress: bool = True,
) -> Measurements:
    """Compare the neurons of every noun in different pictures.

    Args:
        model: the hooked model.
        dataset: samples, several with the same nouns; see `mmlens.analysis.samples.sample`.
        methods: how neurons are chosen; `"random"` adds random neurons beside each: of the same layers, and as active too.
        k: how many neurons; several for a curve.
        together: how many pictures have to share a neuron in the variant over all.
        nouns: as for `mm.neurons.caption_nouns`.
        draws: how many sets of random neurons of either kind.
        seed: of the random neurons.
        progress: show a progress bar.

    Returns:
        Pairwise: the mean share of top-k neurons that two pictures of a noun have in common, beside pictures of two nouns.
        Over all: the share common to all of `together` pictures of a noun.

    Example:
        >>> found = image_invariance(model, [scene, scene.twin(place="grass")], k=5, nouns=["person"], progress=False)
        >>> found.interval("shared by two pictures", "contribution").mean > 0.2
        True

    Source: pairwise: Pan et al., 2024 (https://arxiv.org/abs/2311.07470); over all: Fang et al. (NAM), NeurIPS 2024.
    """
    ks = counts(k)
    measures = [ImageInvariance(ks, together)]
    choice = NeuronChoice.of(methods, max(ks), seed, draws)
    return run(model, dataset, measures, choice, settings=CaptionSettings(nouns), progress=progress)
