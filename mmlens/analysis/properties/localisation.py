"""Localisation: whether the heat map of a noun's neurons lies on the object."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool

from mmlens.analysis.heatmap import HeatMap, centred_blob, iou
from mmlens.analysis.neurons.maps import Shown, activation_maps
from mmlens.analysis.nouns.caption_nouns import Nouns
from mmlens.analysis.properties.cases import Case, MethodChoice, NeuronChoice
from mmlens.analysis.properties.measurements import Measurements
from mmlens.analysis.properties.noun_occurrences import CaptionSettings
from mmlens.analysis.properties.quantities import Quantity, Value
from mmlens.analysis.properties.run import run
from mmlens.analysis.samples.sample import Dataset
from mmlens.core.contract import checked
from mmlens.core.kinds import Count, Percentile, Seed, Several
from mmlens.models.hooked import WritingModel

#: The mask in the middle of the picture that every map is compared with.
BLOB = "centred blob"
_NAMES: Mapping[Shown, str] = {"activation": "", "magnitude": ", magnitudes"}
#: What is measured on the object, the same on the picture's other objects, and the unit.
_MEASURES = (
    ("IoU", "IoU with other objects", "IoU"),
    ("pointing game", "pointing at other objects", "share of maps"),
    ("energy inside", "energy in other objects", "times that of an even map"),
)


@dataclass(frozen=True)
class Localisation:
    """See `localisation`.

    Attributes:
        percentile: of the mask.
        shown: which maps.
        read: whether the last layer's neurons are left out.
    """

    percentile: float = 95.0
    shown: Sequence[Shown] = ("activation", "magnitude")
    read: bool = False

    @property
    def label(self) -> str:
        """Its name."""
        return "localisation"

    @property
    def quantities(self) -> Sequence[Quantity]:
        """For each kind of map: IoU, pointing game and energy, and the IoU with the other objects."""
        quantities = []
        for kind in self.shown:
            end = _NAMES[kind]
            for name, other, unit in _MEASURES:
                quantities.append(Quantity(f"{name}{end}", unit, control=f"{other}{end}", baseline=BLOB))
                quantities.append(Quantity(f"{other}{end}", unit, better="lower"))
        return quantities

    def measure(self, cases: Sequence[Case]) -> Iterator[Value]:
        """Draw the mean map of each choice of neurons over the picture whose object is known."""
        for case in cases:
            regions = {noun: torch.as_tensor(mask) for noun, mask in case.occurrence.sample.regions.items()}
            truth = regions.pop(case.occurrence.noun, None)
            if truth is None or not truth.any():
                continue
            rest = torch.stack(list(regions.values())).any(0) & ~truth if regions else None
            rest = rest if rest is not None and rest.any() else None
            for kind in self.shown:
                yield from self._maps(case, kind, truth, rest)

    def _maps(
        self,
        case: Case,
        shown: Shown,
        truth: Bool[torch.Tensor, "height width"],
        rest: Bool[torch.Tensor, "height width"] | None,
    ) -> Iterator[Value]:
        end = _NAMES[shown]
        sets = case.sets(read=self.read)
        share = 0.0
        for method, heat in activation_maps(case.occurrence.model, case.occurrence.prompt, sets, shown=shown).items():
            mask = heat.mask(self.percentile)
            share = float(mask.float().mean())
            yield case.value(f"IoU{end}", method, iou(mask, truth))
            yield case.value(f"pointing game{end}", method, points_at(heat, truth))
            yield case.value(f"energy inside{end}", method, energy_inside(heat, truth))
            if rest is not None:
                yield case.value(f"IoU with other objects{end}", method, iou(mask, rest))
                yield case.value(f"pointing at other objects{end}", method, points_at(heat, rest))
                yield case.value(f"energy in other objects{end}", method, energy_inside(heat, rest))
        height, width = truth.shape
        blob = centred_blob((height, width), share)
        yield case.value(f"IoU{end}", BLOB, iou(blob, truth))
        yield case.value(f"pointing game{end}", BLOB, bool(truth[height // 2, width // 2]))
        yield case.value(f"energy inside{end}", BLOB, float(truth[blob].float().mean() / truth.float().mean()))


def points_at(heat: HeatMap, truth: Bool[torch.Tensor, "height width"]) -> float:
    """The pointing game: 1 if the map's highest pixel lies inside a mask, else 0; a share where several pixels tie."""
    smooth = heat.smooth()
    return float(truth[smooth == smooth.max()].float().mean())


def energy_inside(heat: HeatMap, truth: Bool[torch.Tensor, "height width"]) -> float:
    """How much more of a map lies inside a mask than of an even map: share of energy over share of area.

    The map is counted from its least value up; an even map gives 1.
    """
    above = heat.smooth() - heat.values.min()
    total = float(above.sum())
    area = float(truth.float().mean())
    return float(above[truth].sum()) / total / area if total > 0 else 1.0


@checked
def localisation(
    model: WritingModel,
    dataset: Dataset,
    *,
    methods: MethodChoice = ("contribution", "random"),
    k: Count = 20,
    percentile: Percentile = 95.0,
    shown: Several[Shown] = ("activation",),
    read: bool = False,
    nouns: Nouns = None,
    draws: Count = 20,
    seed: Seed = 0,
    progress: bool = True,
) -> Measurements:
    """Compare the mean heat map of the top neurons of every noun with the mask of the object it names.

    Args:
        model: the hooked model.
        dataset: samples with `regions`; see `mmlens.analysis.samples.sample`.
        methods: how neurons are chosen; `"random"` adds random neurons beside each: of the same layers, and as active too.
        k: how many neurons are averaged.
        percentile: the map's mask are the pixels above it.
        shown: maps of the activations (as published), of their magnitudes, or both. Activations of gated neurons have
            either sign, which cancels in the mean; on the lab model the IoU of magnitudes is higher by half.
        read: leave out the last layer's neurons. What they do at the picture's positions is read by nothing (no gradient
            reaches it), so their maps are noise; on the lab model this raises the IoU a little more.
        nouns: as for `mm.neurons.caption_nouns`.
        draws: how many sets of random neurons of either kind.
        seed: of the random neurons.
        progress: show a progress bar.

    Returns:
        IoU, pointing game (is the highest pixel on the object) and energy inside (against an even map), beside the same
        for the picture's other objects and for a centred blob as large as the mask.

    Raises:
        InputError: if no sample could be measured; NoPlaceError where image tokens have no place in the picture.

    Example:
        >>> found = localisation(model, [scene], k=5, nouns=["person"], progress=False)
        >>> 0 <= found.interval("IoU", "centred blob").mean <= 1
        True

    Source: Pan et al., 2024 (https://arxiv.org/abs/2311.07470): mean map, 95th percentile. Pointing game: Zhang et al.,
    "Top-down Neural Attention by Excitation Backprop", ECCV 2016. Energy: Wang et al., "Score-CAM", CVPR-W 2020.
    *Departs:* energy is divided by the object's share of the picture, so that small and large objects count alike.
    """
    measures = [Localisation(percentile, tuple(shown), read)]
    return run(
        model,
        dataset,
        measures,
        NeuronChoice.of(methods, k, seed, draws),
        settings=CaptionSettings(nouns),
        progress=progress,
    )
