"""All properties of the neurons behind a model's nouns, in one call, each beside its baselines."""

from collections.abc import Sequence
from itertools import chain, islice

import torch
from jaxtyping import Float

from mmlens.analysis.controls.unit_means import point_means
from mmlens.analysis.neurons.points import neuron_layers
from mmlens.analysis.nouns.caption_nouns import Nouns
from mmlens.analysis.properties.cases import MethodChoice, NeuronChoice, Overall, Property
from mmlens.analysis.properties.causal import Causal, Way
from mmlens.analysis.properties.cross_modality import CrossModality
from mmlens.analysis.properties.exclusivity import Exclusive
from mmlens.analysis.properties.invariance import ImageInvariance, RegionInvariance
from mmlens.analysis.properties.localisation import Localisation
from mmlens.analysis.properties.measurements import Measurements
from mmlens.analysis.properties.noun_occurrences import CaptionSettings
from mmlens.analysis.properties.run import run
from mmlens.analysis.properties.scorers import Scorer
from mmlens.analysis.properties.sensitivity import Sensitivity
from mmlens.analysis.samples.sample import Dataset, Sample, as_samples, length_of
from mmlens.core.contract import checked
from mmlens.core.kinds import Count, NonNegative, PathLike, Seed, Several
from mmlens.models.hooked import HookedMultimodal, WritingModel


@checked
def neuron_report(
    model: WritingModel,
    dataset: Dataset,
    *,
    methods: MethodChoice = ("contribution", "gradient_x_activation", "activation", "random"),
    k: Count = 20,
    ways: Several[Way] = ("zero", "mean", "noise"),
    sigma: NonNegative = 1.0,
    captions: bool = True,
    scorers: Sequence[Scorer] = (),
    nouns: Nouns = None,
    per_sample: Count | None = None,
    max_new_tokens: Count = 30,
    reference: Count = 32,
    batch_size: Count = 8,
    draws: Count = 20,
    seed: Seed = 0,
    checkpoint: PathLike | None = None,
    progress: bool = True,
) -> Measurements:
    """Measure everything about the neurons behind the nouns that a model says: read, in place, steady, shared, own, causal.

    Each way to choose neurons stands beside random neurons of the same layers, and each property beside its own control:
    the picture's other objects and a centred blob, the writing of another noun, the caption's other tokens.

    Args:
        model: the hooked model.
        dataset: read once, in order. Localisation needs samples with `regions`, cross-modality with `writing`; what a
            dataset does not bring is left out. See `mmlens.analysis.samples.sample`.
        methods: methods of `mm.find_neurons`; `"random"` adds random neurons beside each: of the same layers, and as active too.
        k: how many neurons of each noun.
        ways, sigma: what is done to neurons to see their effect, as for `causal_effect`.
        captions: generate each caption anew with the neurons zeroed; the slowest measure.
        scorers: how well the neurons' words fit picture and caption; see `mmlens.analysis.properties.scorers`.
        nouns: as for `mm.neurons.caption_nouns`.
        per_sample: how many nouns of a caption count, the first; all by default.
        max_new_tokens: upper bound on a caption's tokens.
        reference: neurons are set to their means over this many samples, the dataset's first.
        batch_size: samples among which a noun meets other nouns, its controls.
        draws: how many sets of random neurons of either kind.
        seed: of random neurons, noise and order.
        checkpoint: a file that keeps what is measured; the same call goes on from it.
        progress: show progress bars.

    Returns:
        The table: `.to_frame()`, `.difference(...)`, `.plot()`, `.save(path)`. `.skipped` says what the model cannot have
        measured (no places in the picture), and why.

    Raises:
        InputError: if no noun was found; for a checkpoint of other settings.

    Example:
        >>> import mmlens as mm
        >>> report = mm.properties.neuron_report(model, [scene], methods=("contribution", "random"), ways=("zero",), k=5,
        ...     captions=False, nouns=["person"], progress=False)
        >>> report.difference("log p of the noun, zeroed", "contribution").mean < 0
        True

    Source: Pan et al., "Finding and Editing Multi-Modal Neurons in Pre-Trained Transformers", Findings of ACL 2024
    (https://arxiv.org/abs/2311.07470); each measure's own function says what departs.
    """
    settings = CaptionSettings(nouns, per_sample, max_new_tokens, batch_size)
    samples = as_samples(dataset)
    means = None
    if "mean" in ways:
        first = list(islice(samples, reference))
        means = _means(model, first, batch_size, progress)
        samples = chain(first, samples)
    again = CaptionSettings(nouns, None, max_new_tokens, batch_size)
    measures: list[Property | Overall] = [
        Sensitivity(scorers=tuple(scorers)),
        Localisation(),
        RegionInvariance((k,), again, seed),
        ImageInvariance((k,)),
        CrossModality((k,), again),
        Exclusive(k),
    ]
    for way in ways:  # one by one, so that rows that cannot be edited (quantised, offloaded) only cost the noise
        measures.append(Causal((way,), (k,), (sigma,), means, captions and way == "zero", again, seed))
    choice = NeuronChoice.of(methods, k, seed, draws)
    total = length_of(dataset)
    return run(
        model,
        samples,
        measures,
        choice,
        settings=settings,
        checkpoint=checkpoint,
        skip_unmeasurable=True,
        total=total,
        progress=progress,
    )


def _means(
    model: HookedMultimodal, samples: Sequence[Sample], batch_size: int, progress: bool
) -> Float[torch.Tensor, "layer neuron"]:
    """The mean of every neuron of the language model over some samples."""
    means = point_means(model, samples, neuron_layers(model).names(), batch_size=batch_size, progress=progress)
    return torch.stack(list(means.values()))
