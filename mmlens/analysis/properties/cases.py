"""Neurons of a noun by several methods, each beside several draws of random neurons of the same layers."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Annotated, Protocol, TypeAlias, runtime_checkable

import torch

from mmlens.analysis.controls.matches import Match
from mmlens.analysis.controls.matches.activation import Activation
from mmlens.analysis.controls.matches.layer import Layer
from mmlens.analysis.controls.random_units import sized_random_units
from mmlens.analysis.neurons.find import find_neurons
from mmlens.analysis.neurons.methods import NEURON_METHODS, NeuronMethod
from mmlens.analysis.neurons.methods.contribution import Contribution
from mmlens.analysis.neurons.methods.random_scores import Random
from mmlens.analysis.neurons.points import neuron_layers
from mmlens.analysis.neurons.scores import NeuronScores
from mmlens.analysis.properties.noun_occurrences import CaptionSettings, NounOccurrence, noun_occurrences
from mmlens.analysis.properties.quantities import ControlKind, Quantity, Value, control_name
from mmlens.analysis.samples.sample import Sample
from mmlens.core.errors import InputError
from mmlens.core.kinds import Several, With
from mmlens.core.unit_sets import Units

#: Methods that score neurons: a name or settings, or several of them; `"random"` adds random neurons beside each.
MethodChoice: TypeAlias = Annotated[
    str | NeuronMethod | Several[str | NeuronMethod],
    With(lambda arguments, methods, name: NEURON_METHODS.get_all(methods)),
]


#: What random neurons share with those that were chosen, beside their number in each layer.
_MATCHES: dict[ControlKind, Match] = {"random": Layer(), "matched": Activation(positions="last")}


@dataclass(frozen=True)
class NeuronChoice:
    """How neurons are chosen.

    Attributes:
        methods: methods of `mm.find_neurons`; `"random"` means, for each other method, random neurons of the same layers, and
            those of them that are as active where the noun is said.
        k: how many neurons.
        seed: of the random ones.
        draws: how many sets of each kind of random ones.
    """

    methods: tuple[NeuronMethod, ...] = (Contribution(), Random())
    k: int = 20
    seed: int = 0
    draws: int = 20

    @classmethod
    def of(cls, methods: MethodChoice, k: int, seed: int = 0, draws: int = 20) -> "NeuronChoice":
        """The choice by names or settings.

        Raises:
            InputError: for unknown methods, and if none scores neurons.
        """
        choice = cls(NEURON_METHODS.get_all(methods), k, seed, draws)
        if not choice.scoring_methods:
            raise InputError(f"methods={methods!r} must name at least one that scores neurons, e.g. 'contribution'.")
        return choice

    @property
    def scoring_methods(self) -> dict[str, NeuronMethod]:
        """The methods that score neurons, by name and settings."""
        return {str(method): method for method in self.methods if method.name != "random"}

    @property
    def controls(self) -> bool:
        """Whether random neurons stand beside each method."""
        return any(method.name == "random" for method in self.methods)


@dataclass(frozen=True)
class Case:
    """A noun that was said, and the neurons chosen for it.

    Attributes:
        occurrence: the noun, and where it was about to be said.
        scores: of all neurons, by method.
        choice: how many neurons.
        stream: tells the random neurons of cases apart that are of one noun and sample.
    """

    occurrence: NounOccurrence
    scores: dict[str, NeuronScores] = field(repr=False)
    choice: NeuronChoice
    stream: int = 0
    _sets: dict[tuple[int, bool], dict[str, Units]] = field(default_factory=dict, repr=False, compare=False)

    def sets(self, k: int | None = None, *, read: bool = False) -> dict[str, Units]:
        """The neurons by choice: each method's top k, and for each several draws of either kind of random ones.

        Args:
            k: how many; as chosen by default.
            read: leave out the last layer, whose activations at the picture's positions nothing reads.
        """
        key = (self.choice.k if k is None else k, read)
        if key not in self._sets:
            self._sets[key] = dict(self._by_name(*key))
        return self._sets[key]

    def _by_name(self, k: int, read: bool) -> Iterator[tuple[str, Units]]:
        for method, scores in self.scores.items():
            top = replace(scores, scores=scores.scores[:-1]).top(k) if read else scores.top(k)
            yield method, top
            if self.choice.controls:
                for kind, rule in _MATCHES.items():
                    controls = sized_random_units(
                        self.occurrence.model, top, rule, self._sizes if kind == "matched" else {},
                        draws=self.choice.draws, seed=self._seed,
                    )  # fmt: skip
                    yield from ((control_name(method, draw, kind), units) for draw, units in enumerate(controls))

    @cached_property
    def _sizes(self) -> dict[str, torch.Tensor]:
        """How active all neurons are where the noun is said."""
        model = self.occurrence.model
        return _MATCHES["matched"].sizes(model, neuron_layers(model).names(), self.occurrence.at)

    @property
    def _seed(self) -> int:
        return self.choice.seed + 1_000 * (1 + self.occurrence.number) + 31 * self.occurrence.step + self.stream

    def value(self, quantity: str, method: str, value: float | int | torch.Tensor, *, k: int | None = None) -> Value:
        """A number of this case."""
        return Value(quantity, method, k or self.choice.k, float(value), self.occurrence.number, self.occurrence.noun)


def case_of(occurrence: NounOccurrence, choice: NeuronChoice, *, stream: int = 0) -> Case:
    """Score the neurons for a noun in every way asked for."""
    scores = {
        name: find_neurons(occurrence.model, occurrence.at, token=occurrence.token, method=method)
        for name, method in choice.scoring_methods.items()
    }
    return Case(occurrence, scores, choice, stream)


@dataclass(frozen=True)
class NounNeurons:
    """The neurons of a noun of a sample: what is kept of a case.

    Attributes:
        sample, noun: where the noun was said.
        neurons: by choice, best first.
    """

    sample: int
    noun: str
    neurons: dict[str, Units]

    @classmethod
    def of(cls, case: Case) -> "NounNeurons":
        """What is kept of a case."""
        return cls(case.occurrence.number, case.occurrence.noun, case.sets())


class UnmeasurableError(InputError):
    """A property that a model cannot have measured; the message says why."""


@runtime_checkable
class Property(Protocol):
    """Something to measure of the neurons of nouns."""

    @property
    def label(self) -> str:
        """How it is called where it has to be skipped."""

    @property
    def quantities(self) -> Sequence[Quantity]:
        """What it measures."""

    def measure(self, cases: Sequence[Case]) -> Iterator[Value]:
        """Measure some cases; what needs another noun takes it from among them."""


@runtime_checkable
class Overall(Protocol):
    """Something to measure of all pictures of a noun together, from the neurons that were chosen for each."""

    @property
    def quantities(self) -> Sequence[Quantity]:
        """What it measures."""

    def over_all(self, nouns: Sequence[NounNeurons]) -> Iterator[Value]:
        """Measure it, once all samples have been read."""


def repeated_cases(
    cases: Sequence[Case], settings: CaptionSettings, *, form: Callable[[Sample], Sample] = lambda sample: sample
) -> dict[tuple[int, str], Case]:
    """The cases of the same nouns where their samples are captioned once more, by number of the sample and noun.

    Args:
        cases: the first ones.
        settings: how samples are captioned.
        form: the form in which a sample is captioned.
    """
    by_sample: dict[int, list[Case]] = defaultdict(list)
    for case in cases:
        by_sample[case.occurrence.number].append(case)
    result: dict[tuple[int, str], Case] = {}
    for number, group in by_sample.items():
        first, nouns = group[0].occurrence, {case.occurrence.noun for case in group}
        for occurrence in noun_occurrences(first.model, form(first.sample), settings, number=number):
            if occurrence.noun in nouns:
                result[number, occurrence.noun] = case_of(occurrence, group[0].choice, stream=1)
    return result


def counts(k: int | Sequence[int]) -> tuple[int, ...]:
    """Numbers of neurons, ascending."""
    return (k,) if isinstance(k, int) else tuple(sorted(k))


def neuron_shares(case: Case, other: Case | None, k: int) -> Iterator[tuple[str, float]]:
    """By choice of neurons, the share of a case's that are among another's, 0 to 1; nothing without another."""
    others = {} if other is None else other.sets(k)
    for method, neurons in case.sets(k).items():
        if method in others:  # blocks differ in how many draws there are
            yield method, len(neurons & others[method]) / len(neurons)


def another(cases: Sequence[Case], case: Case) -> Case | None:
    """A case of another noun, the next in turn: never of the same sample where there is one of another; None if none."""
    start = next(i for i, other in enumerate(cases) if other is case)
    order = [*cases[start + 1 :], *cases[:start]]
    others = [other for other in order if other.occurrence.noun != case.occurrence.noun]
    apart = [other for other in others if other.occurrence.number != case.occurrence.number]
    return next(iter(apart or others), None)
