"""Causal effect: what becomes of a noun when its neurons are ablated, or their rows made noisy."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from jaxtyping import Float

from mmlens.analysis.nouns.caption_nouns import Nouns
from mmlens.analysis.properties.cases import Case, MethodChoice, NeuronChoice, counts
from mmlens.analysis.properties.likelihood import CaptionRun, Likelihood, caption_likelihood
from mmlens.analysis.properties.measurements import Measurements
from mmlens.analysis.properties.noun_occurrences import CaptionSettings, NounOccurrence, noun_occurrences
from mmlens.analysis.properties.quantities import Quantity, Value
from mmlens.analysis.properties.run import run
from mmlens.analysis.samples.sample import Dataset
from mmlens.core.contract import checked
from mmlens.core.errors import InputError
from mmlens.core.kinds import Count, NonNegative, Seed, Several
from mmlens.core.unit_sets import Units
from mmlens.interventions.ablation import Ablate
from mmlens.interventions.edits.edit import Edit
from mmlens.interventions.edits.rows import noise_neurons, read_rows
from mmlens.models.hooked import HookedMultimodal, WritingModel

#: What is done to neurons: set to 0, set to their mean over other samples, or noise on the rows they write.
Way = Literal["zero", "mean", "noise"]
_CHANGES: Mapping[Way, str] = {"zero": "zeroed", "mean": "set to their mean", "noise": "rows noised"}


@dataclass(frozen=True)
class Causal:
    """See `causal_effect`.

    Attributes:
        ways: what is done to the neurons.
        ks: how many neurons.
        sigmas: sizes of the noise, in units of a row's own root mean square.
        means: per neuron its mean over other samples, `[layer neuron]`; needed for `"mean"`.
        captions: whether captions are generated anew with the neurons zeroed.
        settings: how samples are captioned.
        seed: of the noise.
        row_units: whether sigmas are in units of the rows' root mean square, or as published, absolute.
    """

    ways: tuple[Way, ...] = ("zero",)
    ks: tuple[int, ...] = (20,)
    sigmas: tuple[float, ...] = (1.0,)
    means: Float[torch.Tensor, "layer neuron"] | None = field(default=None, repr=False)
    captions: bool = False
    settings: CaptionSettings = field(default_factory=CaptionSettings, repr=False)
    seed: int = 0
    row_units: bool = True

    def __post_init__(self) -> None:
        if "mean" in self.ways and self.means is None:
            raise InputError("Ablation to the mean needs the means of the neurons over other samples; give means.")

    def _names(self) -> Iterator[tuple[Way, float, str]]:
        """Way, sigma and how it is called."""
        for way in self.ways:
            for sigma in self.sigmas if way == "noise" else (0.0,):
                yield way, sigma, _CHANGES[way] + (f", sigma {sigma:g}" if way == "noise" else "")

    @property
    def label(self) -> str:
        """Its name, with what is done to the neurons."""
        return f"causal effect, {', '.join(_CHANGES[way] for way in self.ways)}"

    @property
    def quantities(self) -> Sequence[Quantity]:
        """For each way the noun and the caption's other tokens; whether the caption still has the noun."""
        quantities = []
        for _, _, label in self._names():
            quantities.append(Quantity(f"log p of the noun, {label}", "change in nats", "lower", _others(label)))
            quantities.append(Quantity(_others(label), "mean change in nats", ""))
            quantities.append(Quantity(f"log odds of the noun, {label}", "change in nats", "lower"))
        if self.captions:
            quantities += [Quantity("noun gone from the caption, zeroed", "share of captions")]
        return quantities

    def measure(self, cases: Sequence[Case]) -> Iterator[Value]:
        """Read the caption again with the neurons changed: set to constants, all sets of them in one sweep."""
        for case in cases:
            run = CaptionRun(case.occurrence, self.settings.max_new_tokens)
            sets = [(k, method, neurons) for k in self.ks for method, neurons in case.sets(k).items()]
            after: dict[str, list[Likelihood]] = {}
            for way, sigma, label in self._names():
                after[way] = list(self._after(run, case, sets, way, sigma))
                for (k, method, _), likelihood in zip(sets, after[way], strict=True):
                    change = likelihood.log_p - run.before.log_p
                    odds = (likelihood.log_odds - run.before.log_odds)[case.occurrence.step]
                    yield case.value(f"log p of the noun, {label}", method, change[case.occurrence.step], k=k)
                    yield case.value(f"log odds of the noun, {label}", method, odds, k=k)
                    rest = change[case.occurrence.other_steps]
                    if len(rest):
                        yield case.value(_others(label), method, rest.mean(), k=k)
            if self.captions:
                after_zero = after.get("zero") or self._after(run, case, sets, "zero", 0.0)
                for (k, method, neurons), likelihood in zip(sets, after_zero, strict=True):
                    absent = not likelihood.again and self._gone(case.occurrence, neurons)
                    yield case.value("noun gone from the caption, zeroed", method, absent, k=k)

    def _after(
        self, run: CaptionRun, case: Case, sets: Sequence[tuple[int, str, Units]], way: Way, sigma: float
    ) -> Iterator[Likelihood]:
        """What becomes of the caption with each set of neurons changed."""
        if way != "noise":
            yield from run.with_neurons([neurons for _, _, neurons in sets], self.means if way == "mean" else None)
            return
        model = case.occurrence.model
        for _, _, neurons in sets:
            seed = self.seed + case.occurrence.number
            if self.row_units:
                edit = noise_edit(model, neurons, sigma, seed)
            else:
                edit = noise_neurons(model, neurons, sigma=sigma, seed=seed)
            with model.edited(edit):
                yield caption_likelihood(case.occurrence)

    def _gone(self, occurrence: NounOccurrence, neurons: Units) -> bool:
        with occurrence.model.intervene(Ablate(neurons)):
            occurrences = noun_occurrences(occurrence.model, occurrence.sample, self.settings)
        return occurrence.noun not in {occurrence.noun for occurrence in occurrences}


def _others(label: str) -> str:
    return f"log p of the caption's other tokens, {label}"


def noise_edit(model: HookedMultimodal, neurons: Units, sigma: float, seed: int) -> Edit:
    """Noise on rows, of `sigma` times the root mean square of the changed rows of the same layer."""
    plain = noise_neurons(model, neurons, sigma=sigma, seed=seed)
    squares = read_rows(model, plain.rows).pow(2).mean(1)
    layers = torch.tensor([neuron.layer for neuron in plain.rows])
    same_layer = (layers[:, None] == layers).to(squares)
    sizes = (same_layer @ squares / same_layer.sum(1)).sqrt()
    return replace(plain, deltas=plain.deltas * sizes[:, None])


@checked
def causal_effect(
    model: WritingModel,
    dataset: Dataset,
    *,
    methods: MethodChoice = ("contribution", "random"),
    k: Count | Several[Count] = 20,
    ways: Several[Way] = ("zero", "noise"),
    sigma: NonNegative | Several[NonNegative] = 1.0,
    means: Float[torch.Tensor, "layer neuron"] | None = None,
    captions: bool = False,
    nouns: Nouns = None,
    draws: Count = 20,
    seed: Seed = 0,
    row_units: bool = True,
    progress: bool = True,
) -> Measurements:
    """Change the top neurons of every noun, and see what becomes of the noun and of the caption's other tokens.

    Args:
        model: the hooked model.
        dataset: samples; see `mmlens.analysis.samples.sample`.
        methods: how neurons are chosen; `"random"` adds random neurons beside each: of the same layers, and as active too.
        k: how many neurons; several for a curve.
        ways: `"zero"` and `"mean"` set the neurons to a constant at every position; `"noise"` adds `sigma * N(0, I)` to the
            rows that they write.
        sigma: size of the noise, see `row_units`; several for a curve.
        means: what `"mean"` sets each neuron to: `mm.neurons.mean_activation` over other samples, as `[layer neuron]`.
        captions: generate the caption anew with the neurons zeroed, and see whether the noun is gone.
        nouns: as for `mm.neurons.caption_nouns`.
        draws: how many sets of random neurons of either kind.
        seed: of the noise, and of the random neurons.
        row_units: sigma is in units of the rows' root mean square; False: absolute, as published.
        progress: show a progress bar.

    Returns:
        For each way the change of the noun's log-probability and log-odds where it was predicted, in nats, beside the mean
        change over the caption's other tokens.

    Raises:
        InputError: for `"mean"` without means.

    Example:
        >>> found = causal_effect(model, [scene], k=5, nouns=["person"], progress=False)
        >>> found.interval("log p of the noun, zeroed", "contribution").mean < 0
        True

    Source: Pan et al., 2024 (https://arxiv.org/abs/2311.07470), perturbation of the down projection's rows by noise.
    *Departs:* sigma is in units of the rows' size, so that it means the same in every layer and model; the control are
    neurons of the same layers; constants beside noise.
    """
    ks = counts(k)
    sigmas = (float(sigma),) if isinstance(sigma, int | float) else tuple(sigma)
    settings = CaptionSettings(nouns)
    measures = [Causal(tuple(ways), ks, sigmas, means, captions, settings, seed, row_units)]
    choice = NeuronChoice.of(methods, max(ks), seed, draws)
    return run(model, dataset, measures, choice, settings=settings, progress=progress)
