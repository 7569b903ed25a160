"""What is found for one noun of a caption, beside its controls, and the verdict on it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import torch
from jaxtyping import Bool
from PIL import Image

from mmlens.analysis.controls.random_units import RandomUnits
from mmlens.analysis.heatmap import HeatMap
from mmlens.analysis.neurons.scores import NeuronScores
from mmlens.analysis.nouns.caption_nouns import CaptionWord
from mmlens.analysis.patching.result import PatchSweep
from mmlens.core.unit_sets import Units

#: What a control leaves of a claim.
Verdict: TypeAlias = Literal["yes", "no", "not tested"]
#: A thing's patches bring the noun back if they recover so much of the gap, and so much more than the rest of the picture does.
_CARRIED, _BEYOND = 0.5, 0.25


@dataclass(frozen=True)
class CounterfactualTwin:
    """The same picture with another thing in the place of a noun's.

    Attributes:
        image: the picture.
        word: the other thing's noun.
        region: the pixels of the noun's thing in the picture itself; None if they are not known.
    """

    image: Image.Image = field(repr=False)
    word: str
    region: Bool[torch.Tensor, "height width"] | None = field(default=None, repr=False)


@dataclass(frozen=True)
class NounCard:
    """What was found for one noun of the caption.

    Attributes:
        word: the noun, with its step and tokens.
        scores: of all neurons, for its first token.
        doses: how many of the top neurons were ablated.
        control: draws of as many random neurons of the same layers as the largest dose, each as active as the one it stands for.
        log_odds: of the noun's first token where it was predicted, in nats.
        ablated: the same with each dose ablated.
        control_ablated: the same with each draw, dose by dose.
        caption_ablated, caption_control: the caption that is generated with the largest dose, and with the first draw, ablated.
        maps: the mean map of the first dose's neurons, then that of all draws; None where image tokens have no place.
        overlaps: IoU with the noun's thing of the map's highest 5%, of the control's, and of a blob of that size in the middle;
            None where the thing's pixels are not known.
        twin: what the patched states come from: the twin of this noun, or the blurred picture.
        patched: clean states of blocks of the picture put into the twin's run, layer by layer; of the picture, the text and the
            last position where image tokens have no place.
        shares: how much of the gap the patches that the twin changes and their neighbours bring back, at the best layer, and how
            much the rest of the picture does; None without a twin, or with one that changes every patch.
    """

    word: CaptionWord
    scores: NeuronScores
    doses: tuple[int, ...]
    control: RandomUnits = field(repr=False)
    log_odds: float
    ablated: tuple[float, ...]
    control_ablated: tuple[tuple[float, ...], ...] = field(repr=False)
    caption_ablated: str
    caption_control: str
    maps: tuple[HeatMap, HeatMap] | None = field(repr=False)
    overlaps: tuple[float, float, float] | None
    twin: CounterfactualTwin | None
    corrupted: Image.Image = field(repr=False)
    patched: PatchSweep
    shares: tuple[float, float] | None

    @property
    def top(self) -> Units:
        """The neurons of the largest dose, best first."""
        return self.scores.top(self.doses[-1])

    @property
    def changes(self) -> tuple[float, ...]:
        """The change of the log-odds with each dose ablated, in nats."""
        return tuple(value - self.log_odds for value in self.ablated)

    @property
    def control_changes(self) -> tuple[tuple[float, ...], ...]:
        """The same for the draws, `[dose][draw]`."""
        return tuple(
            tuple(draw[dose] - self.log_odds for draw in self.control_ablated) for dose in range(len(self.doses))
        )

    @property
    def written(self) -> Verdict:
        """Whether the noun falls further without its neurons than without any of the draws, at every dose."""
        below = [change < min(draws) for change, draws in zip(self.changes, self.control_changes, strict=True)]
        return "yes" if all(below) else "no"

    @property
    def localised(self) -> Verdict:
        """Whether the map of its neurons lies on its thing more than the control's map and a blob in the middle do."""
        if self.overlaps is None:
            return "not tested"
        own, *others = self.overlaps
        return "yes" if own > max(others) else "no"

    @property
    def carried(self) -> Verdict:
        """Whether the patches of its thing bring it back, and those of the rest of the picture do not."""
        if self.shares is None:
            return "not tested"
        thing, rest = self.shares
        return "yes" if thing >= _CARRIED and thing - rest >= _BEYOND else "no"

    @property
    def sentence(self) -> str:
        """The verdict in words, with its numbers."""
        dose = self.doses[-1]
        draws = self.control_changes[-1]
        largest = max(map(abs, draws))
        away = "falls" if self.ablated[-1] < self.log_odds else "goes"
        return (
            f"Without its {dose} neurons {self.word.text!r} {away} from {self.log_odds:.1f} to {self.ablated[-1]:.1f} nats of "
            f"log-odds; {len(draws)} sets of random neurons of the same layers, as active, move it by at most {largest:.2f}."
        )

    def to_json(self) -> dict[str, object]:
        """All numbers of the card as plain data."""
        return {
            "noun": self.word.text,
            "sentence": self.sentence,
            "written by its neurons": self.written,
            "localised on its thing": self.localised,
            "carried by its patches": self.carried,
            "doses": list(self.doses),
            "log_odds": self.log_odds,
            "log_odds_ablated": list(self.ablated),
            "log_odds_control": [list(draw) for draw in self.control_ablated],
            "neurons": [{"neuron": str(unit), "score": self.scores[unit]} for unit in self.scores.top(self.doses[0])],
            "iou": None
            if self.overlaps is None
            else dict(zip(("neurons", "control", "blob"), self.overlaps, strict=True)),
            "recovered": None if self.shares is None else {"thing": self.shares[0], "rest": self.shares[1]},
            "twin": None if self.twin is None else self.twin.word,
            "caption_ablated": self.caption_ablated,
            "caption_control": self.caption_control,
        }


def fitting_doses(doses: Sequence[int], scores: NeuronScores) -> tuple[int, ...]:
    """Doses that leave in every layer as many other neurons as are ablated, for the control; at least one neuron."""
    width = scores.scores.shape[1]
    most = scores.scores.numel()
    counts = [dose for dose in dict.fromkeys(doses) if dose <= most and max(scores.layers(dose)) <= width // 2]
    return tuple(counts) or (1,)
