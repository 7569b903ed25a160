"""The main job in one call: from a picture to the multi-modal neurons behind the words of its caption, tested causally.

Caption the picture; for each noun find the neurons that write it, ablate more and more of them beside random neurons that are as
active, draw where in the picture they are active, and put the picture's states, block by block, into the run of the noun's own
counterfactual twin. The result is one HTML file.

Source: Pan et al., "Finding and Editing Multi-Modal Neurons in Pre-Trained Transformers", Findings of ACL 2024
(https://arxiv.org/abs/2311.07470).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Bool
from PIL import Image
from scipy.ndimage import maximum_filter

from mmlens.analysis.controls.random_units import RandomUnits, random_units
from mmlens.analysis.heatmap import HeatMap, centred_blob, iou
from mmlens.analysis.metrics import Metric, log_odds, logit_difference, measure
from mmlens.analysis.neurons.find import find_neurons
from mmlens.analysis.neurons.maps import activation_maps
from mmlens.analysis.neurons.methods.contribution import Contribution
from mmlens.analysis.neurons.points import ActivationPoint
from mmlens.analysis.neurons.scores import NeuronScores
from mmlens.analysis.nouns.caption_nouns import CaptionWord, Nouns, caption_nouns
from mmlens.analysis.patching.result import PatchSweep
from mmlens.analysis.patching.sweep import patch
from mmlens.analysis.tour.noun_card import CounterfactualTwin, NounCard, fitting_doses
from mmlens.core import positions
from mmlens.core.errors import NoPlaceError
from mmlens.core.progress import progress_over
from mmlens.core.rule_groups import Groups
from mmlens.core.unit_sets import Units
from mmlens.core.units import Unit
from mmlens.inputs.batch import MultimodalBatch
from mmlens.inputs.images import Picture
from mmlens.interventions.ablation import Ablate
from mmlens.interventions.corruptions import blur, swap
from mmlens.models.hooked import HookedMultimodal, WritingModel

#: Where the residual stream is patched.
_STREAM = "blocks.*.hook_resid_pre"
_PERCENTILE = 95.0
#: The picture is cut into about so many blocks along each side.
_BLOCKS = 4


@dataclass(frozen=True)
class Tour:
    """What `tour` returns; `mmlens.viz.tour_report` writes it down.

    Attributes:
        image: the picture.
        prompt: what was asked.
        caption: what the model answered.
        nouns: a card per noun.
    """

    image: Image.Image = field(repr=False)
    prompt: str
    caption: str
    nouns: list[NounCard]

    def to_json(self) -> dict[str, object]:
        """All numbers of the tour as plain data."""
        return {"prompt": self.prompt, "caption": self.caption, "nouns": [card.to_json() for card in self.nouns]}


@torch.no_grad()
def tour(
    model: WritingModel,
    image: Picture,
    *,
    prompt: str = "describe the image",
    twins: Mapping[str, CounterfactualTwin] | None = None,
    nouns: Nouns = None,
    doses: Sequence[int] = (20, 50, 100, 200),
    activation: ActivationPoint = "down_in",
    max_nouns: int = 3,
    draws: int = 10,
    seed: int = 0,
    progress: bool = True,
) -> Tour:
    """Run the main job on one picture.

    Args:
        model: the hooked model.
        image: the picture.
        prompt: what to ask for.
        twins: by noun, the same picture with another thing in its place; nouns without a twin are patched from the blurred
            picture.
        nouns: as for `caption_nouns`.
        doses: how many of a noun's neurons are ablated, in growing numbers; those that leave no control are left out.
        activation: which multiplier the scores use.
        max_nouns: at most this many nouns of the caption.
        draws: how many sets of random neurons stand beside each noun's.
        seed: of the random control.
        progress: show progress bars.

    Raises:
        InputError: if the caption has none of the nouns.
    """
    batch = model.prepare(prompt, images=image)
    trace = model.trace_generation(batch, names="hook_logits", max_new_tokens=40)
    words = caption_nouns(model, trace, nouns=nouns)[:max_nouns]
    cards = []
    for word in progress_over(words, desc="nouns", disable=not progress):
        before = trace.tokens[:, : word.step]
        twin = (twins or {}).get(word.text)
        other = blur(model, batch) if twin is None else swap(model, batch, [twin.image])
        ends = model.extend(batch, before), model.extend(other, before)
        cards.append(_card(model, batch, *ends, word, twin, tuple(doses), activation, draws, seed, progress))
    return Tour(batch.images[0][0], prompt, trace.text[0], cards)


def _card(
    model: HookedMultimodal,
    batch: MultimodalBatch,
    at_word: MultimodalBatch,
    corrupted: MultimodalBatch,
    word: CaptionWord,
    twin: CounterfactualTwin | None,
    doses: tuple[int, ...],
    activation: ActivationPoint,
    draws: int,
    seed: int,
    progress: bool,
) -> NounCard:
    token = word.tokens[0]
    scores = find_neurons(model, at_word, token=token, method=Contribution(activation))
    doses = fitting_doses(doses, scores)
    top = scores.top(doses[-1])
    control = random_units(model, top, match="activation", batch=at_word, draws=draws, seed=seed)
    maps = _maps(model, batch, scores, doses[0], control, activation)
    region = None if twin is None else twin.region
    metric = log_odds(token) if twin is None else logit_difference(token, twin.word)
    metric = replace(metric, name=metric.name.replace(f"{token!r}", f"{word.text!r}", 1))
    patched, shares = _patched(model, at_word, corrupted, metric, twin is not None, progress)
    return NounCard(
        word=word,
        scores=scores,
        doses=doses,
        control=control,
        log_odds=_log_odds(model, at_word, token),
        ablated=tuple(_log_odds(model, at_word, token, top[:dose]) for dose in doses),
        control_ablated=tuple(
            tuple(_log_odds(model, at_word, token, units[:dose]) for dose in doses) for units in control
        ),
        caption_ablated=_caption(model, batch, top),
        caption_control=_caption(model, batch, control[0]),
        maps=maps,
        overlaps=None if maps is None or region is None else _overlaps(maps, region),
        twin=twin,
        corrupted=corrupted.images[0][0],
        patched=patched,
        shares=shares,
    )


def _log_odds(model: HookedMultimodal, at_word: MultimodalBatch, token: int, units: Sequence[Unit] = ()) -> float:
    """Log-odds of the token in nats, perhaps with neurons ablated."""
    with model.intervene(*([Ablate(Units(units))] if units else [])):
        return float(measure(model, at_word, metric=log_odds(token)))


def _caption(model: HookedMultimodal, batch: MultimodalBatch, units: Units) -> str:
    """The caption with neurons ablated."""
    with model.intervene(Ablate(units)):
        return model.trace_generation(batch, names="hook_logits", max_new_tokens=40).text[0]


def _maps(
    model: HookedMultimodal,
    batch: MultimodalBatch,
    scores: NeuronScores,
    count: int,
    control: RandomUnits,
    activation: ActivationPoint,
) -> tuple[HeatMap, HeatMap] | None:
    sets = {
        f"top {count} for {scores.word!r}": scores.top(count),
        f"as active random neurons, {len(control)} draws": [unit for units in control for unit in units[:count]],
    }
    try:
        first, second = activation_maps(model, batch, sets, activation=activation).values()
    except NoPlaceError:
        return None
    return first, second


def _overlaps(maps: tuple[HeatMap, HeatMap], region: torch.Tensor) -> tuple[float, float, float]:
    masks = [heat.mask(_PERCENTILE) for heat in maps]
    blob = centred_blob((region.shape[0], region.shape[1]), float(masks[0].float().mean()))
    return iou(masks[0], region), iou(masks[1], region), iou(blob, region)


def _patched(
    model: HookedMultimodal,
    at_word: MultimodalBatch,
    corrupted: MultimodalBatch,
    metric: Metric,
    has_twin: bool,
    progress: bool,
) -> tuple[PatchSweep, tuple[float, float] | None]:
    """Denoise the residual stream: blocks of the picture, and the patches of what a twin changes against all others."""

    def sweep(groups: Groups) -> PatchSweep:
        return patch(model, at_word, corrupted, at=_STREAM, metric=metric, positions=groups, progress=progress)

    try:
        grid = at_word.layout.grid()
    except NoPlaceError:
        return sweep({"image": positions.image, "text": positions.text - positions.last, "last": positions.last}), None
    blocks = sweep(positions.grid(max(1, min(grid.shape) // _BLOCKS)))
    if not has_twin:
        return blocks, None
    change = _difference(at_word.images[0][0], corrupted.images[0][0], grid.shape)
    boxes = grid.boxes.round().long().tolist()
    if all(change[top:bottom, left:right].any() for left, top, right, bottom in boxes):
        return blocks, None  # the twin is another picture altogether
    thing = positions.mask(change)
    parts = sweep({"thing": thing, "rest": positions.image - thing}).mean_recovered
    return blocks, (float(parts[:, 0].max()), float(parts[:, 1].max()))


def _difference(picture: Image.Image, other: Image.Image, shape: tuple[int, int]) -> Bool[torch.Tensor, "height width"]:
    """The pixels in which two pictures of one size differ, and those around them as far as a patch: towers mix neighbours."""
    pixels = (np.asarray(picture.convert("RGB")) != np.asarray(other.convert("RGB"))).any(-1)
    reach = [round(side / count) for side, count in zip(pixels.shape, shape, strict=True)]
    return torch.from_numpy(maximum_filter(pixels, [2 * side + 1 for side in reach]))
