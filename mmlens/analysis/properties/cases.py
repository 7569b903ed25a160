"""Neurons chosen for a noun in several ways, each beside random neurons of the same layers."""

from collections.abc import Collection, Hashable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeAlias, runtime_checkable

import torch

from mmlens.analysis.neurons.find import find_neurons
from mmlens.analysis.neurons.methods import NEURON_METHODS, NeuronMethod
from mmlens.analysis.neurons.methods.contribution import Contribution
from mmlens.analysis.neurons.methods.random_scores import Random
from mmlens.analysis.neurons.random_baseline import random_neurons
from mmlens.analysis.neurons.scores import NeuronScores
from mmlens.analysis.properties.measured import CONTROL, Quantity, Value
from mmlens.analysis.properties.noun_occurrences import NounOccurrence
from mmlens.core.errors import InputError
from mmlens.core.units import Neuron

#: Methods that score neurons: a name or settings, or several of them; `"random"` adds random neurons beside each.
MethodChoice: TypeAlias = str | NeuronMethod | Sequence[str | NeuronMethod]


@dataclass(frozen=True)
class Choice:
    """How neurons are chosen.

    Attributes:
        methods: methods of `mm.find_neurons`; `"random"` means, for each other method, random neurons of the same layers.
        k: how many neurons.
        seed: of the random ones.
    """

    methods: tuple[NeuronMethod, ...] = (Contribution(), Random())
    k: int = 20
    seed: int = 0

    @classmethod
    def of(cls, methods: MethodChoice, k: int, seed: int = 0) -> "Choice":
        """The choice by names or settings.

        Raises:
            InputError: for unknown methods, and if none scores neurons.
        """
        choice = cls(NEURON_METHODS.get_all(methods), k, seed)
        if k < 1:
            raise InputError(f"k={k} must be at least 1.")
        if not choice.scored:
            raise InputError(f"methods={methods!r} must name at least one that scores neurons, e.g. 'contribution'.")
        return choice

    @property
    def scored(self) -> dict[str, NeuronMethod]:
        """The methods that score neurons, by name and settings."""
        return {str(method): method for method in self.methods if method.name != "random"}

    @property
    def controls(self) -> bool:
        """Whether random neurons of the same layers stand beside each method."""
        return any(method.name == "random" for method in self.methods)


@dataclass(frozen=True)
class Case:
    """A noun that was said, and the neurons chosen for it.

    Attributes:
        mention: the noun, and where it was about to be said.
        scores: of all neurons, by method.
        choice: how many are taken.
        draw: tells draws of random neurons apart.
    """

    mention: NounOccurrence
    scores: dict[str, NeuronScores] = field(repr=False)
    choice: Choice
    draw: int = 0

    def sets(self, k: int | None = None, *, read: bool = False) -> dict[str, list[Neuron]]:
        """The neurons by choice: each method's top k, and for each as many random ones of the same layers.

        Args:
            k: how many; as chosen by default.
            read: leave out the last layer, whose activations at the picture's positions nothing reads.
        """
        k = self.choice.k if k is None else k
        found: dict[str, list[Neuron]] = {}
        for method, scores in self.scores.items():
            found[method] = replace(scores, scores=scores.scores[:-1]).top(k) if read else scores.top(k)
            if self.choice.controls:
                found[CONTROL.format(method=method)] = random_neurons(
                    self.mention.model, like=found[method], seed=self._seed
                )
        return found

    @property
    def _seed(self) -> int:
        return self.choice.seed + 1_000 * (1 + self.mention.number) + 31 * self.mention.step + self.draw

    def value(self, quantity: str, method: str, value: float | int | torch.Tensor, *, k: int | None = None) -> Value:
        """A number of this case."""
        return Value(quantity, method, k or self.choice.k, float(value), self.mention.number, self.mention.noun)


def case_of(mention: NounOccurrence, choice: Choice, *, draw: int = 0) -> Case:
    """Score the neurons for a noun in every way asked for."""
    scores = {
        name: find_neurons(mention.model, mention.at, token=mention.token, method=method)
        for name, method in choice.scored.items()
    }
    return Case(mention, scores, choice, draw)


@dataclass(frozen=True)
class Chosen:
    """Which neurons were chosen for a noun of a sample: what is kept of a case.

    Attributes:
        sample, noun: where the noun was said.
        neurons: per choice of neurons, (layer, index) of each, best first.
    """

    sample: int
    noun: str
    neurons: dict[str, list[tuple[int, int]]]

    @classmethod
    def of(cls, case: Case) -> "Chosen":
        """What is kept of a case."""
        sets = {method: [(n.layer, n.index) for n in neurons] for method, neurons in case.sets().items()}
        return cls(case.mention.number, case.mention.noun, sets)


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

    def over_all(self, chosen: Sequence[Chosen]) -> Iterator[Value]:
        """Measure it, once all samples have been read."""


def counts(k: int | Sequence[int]) -> tuple[int, ...]:
    """Numbers of neurons, ascending.

    Raises:
        InputError: if there are none, or one is below 1.
    """
    ks = (k,) if isinstance(k, int) else tuple(sorted(k))
    if not ks or ks[0] < 1:
        raise InputError(f"k={k} must be one number of neurons, or several, each at least 1.")
    return ks


def shared(found: Collection[Hashable], others: Collection[Hashable]) -> float:
    """The share of some neurons that are among others, 0 to 1."""
    return len(set(found) & set(others)) / len(found)


def another(cases: Sequence[Case], case: Case) -> Case | None:
    """A case of another noun, the next in turn: never of the same sample where there is one of another; None if none."""
    start = next(i for i, each in enumerate(cases) if each is case)
    turned = [*cases[start + 1 :], *cases[:start]]
    others = [each for each in turned if each.mention.noun != case.mention.noun]
    apart = [each for each in others if each.mention.number != case.mention.number]
    return next(iter(apart or others), None)
