"""Whether the neurons behind a caption's nouns can be read, and whether pictures and words share them.

The figures of the model card: those of `mmlens.analysis.properties` for contribution, the 20 largest over all layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmlens.analysis.properties.cases import NeuronChoice, Overall, Property
from mmlens.analysis.properties.cross_modality import OTHER_WRITING, SHARED, CrossModality
from mmlens.analysis.properties.layers import LayerShares
from mmlens.analysis.properties.noun_occurrences import CaptionSettings
from mmlens.analysis.properties.run import run
from mmlens.analysis.properties.sensitivity import AMONG, Sensitivity
from mmlens.analysis.statistics.intervals import Interval
from mmlens.lab.scenery import Scene
from mmlens.lab.world import NOUNS

if TYPE_CHECKING:
    from mmlens.models.hooked import HookedMultimodal

TOP = 20
WORDS = 5
_METHOD = "contribution"


@dataclass(frozen=True)
class NounNeuronFigures:
    """What the top neurons of the nouns are like.

    Attributes:
        readable: Share of a noun's top 20 that have the noun among their 5 words.
        readable_random: The same for random neurons of the same layers: the mean over draws, and what 95% of them are in.
        shared: Share of the top 20 for the picture that are in the top 20 for its written twin.
        shared_other: The same with the writing of another noun.
        layers: Per layer the share of the top 20 that lies in it.
        nouns: Number of nouns measured.
        both: Number of nouns that the captions of picture and writing both have.
        scenes: Number of scenes.
    """

    readable: Interval
    readable_random: Interval
    shared: Interval
    shared_other: Interval
    layers: tuple[float, ...]
    nouns: int
    both: int
    scenes: int


def noun_neurons(
    model: HookedMultimodal, scenes: list[Scene], *, seed: int = 0, progress: bool = True
) -> NounNeuronFigures:
    """Measure the top neurons of the nouns in the model's own captions.

    Args:
        model: The lab model.
        scenes: Held-out scenes.
        seed: Decides the random neurons.
        progress: Whether to show bars.

    Returns:
        The measurement.
    """
    settings = CaptionSettings(NOUNS)
    depth = model.cfg.n_layers
    measures: list[Property | Overall] = [
        Sensitivity(WORDS),
        CrossModality((TOP,), settings, ablate=False),
        LayerShares(depth),
    ]
    choice = NeuronChoice.of((_METHOD, "random"), TOP, seed)
    report = run(model, scenes, measures, choice, settings=settings, progress=progress)
    readable, overlap = report.interval(AMONG.name, _METHOD), report.interval(SHARED.name, _METHOD)
    return NounNeuronFigures(
        readable=readable,
        readable_random=report.draws(AMONG.name, _METHOD),
        shared=overlap,
        shared_other=report.interval(OTHER_WRITING.name, _METHOD),
        layers=tuple(round(report.interval(f"in layer {layer}", _METHOD).mean, 4) for layer in range(depth)),
        nouns=readable.count,
        both=overlap.count,
        scenes=len(scenes),
    )
