"""The main job in one call: from a picture to the multi-modal neurons behind the words of its caption, tested causally.

Caption the picture; for each noun find the neurons that write it, read them as words, draw where in the picture they
are active, ablate them beside several draws of as many random neurons of the same layers; and patch the residual stream
from a counterfactual twin. The result is one HTML file.

Source: Pan et al., "Finding and Editing Multi-Modal Neurons in Pre-Trained Transformers", Findings of ACL 2024
(https://arxiv.org/abs/2311.07470).
"""

from dataclasses import dataclass, field, replace

import torch
from PIL import Image
from tqdm.auto import tqdm

from mmlens.analysis.controls.random_units import RandomUnits, random_units
from mmlens.analysis.heatmap import HeatMap
from mmlens.analysis.metrics import log_probability, logit_difference, measure
from mmlens.analysis.neurons.find import find_neurons
from mmlens.analysis.neurons.maps import activation_maps
from mmlens.analysis.neurons.methods.contribution import Contribution
from mmlens.analysis.neurons.points import ActivationPoint
from mmlens.analysis.neurons.scores import NeuronScores
from mmlens.analysis.nouns import CaptionWord, Nouns, caption_nouns
from mmlens.analysis.patching.result import PatchSweep
from mmlens.analysis.patching.sweep import patch
from mmlens.analysis.statistics import Interval
from mmlens.core import positions
from mmlens.core.errors import NoPlaceError
from mmlens.core.unit_sets import Units
from mmlens.inputs.batch import MultimodalBatch
from mmlens.inputs.images import Picture
from mmlens.interventions.ablation import Ablate
from mmlens.interventions.corruptions import blur, swap
from mmlens.models.hooked import HookedMultimodal, WritingModel


@dataclass(frozen=True)
class NounReport:
    """What was found for one noun of the caption.

    Attributes:
        word: the noun, with its step and tokens.
        scores: of all neurons, for its first token.
        top: the neurons ablated.
        control: draws of as many random neurons of the same layers.
        log_probability: of the noun's first token where it was predicted, in nats.
        ablated: the same with the top neurons ablated.
        control_ablated: the same with each draw ablated.
        caption_ablated, caption_control: the caption that is generated with the top neurons, and with the first draw, ablated.
        maps: the mean map of the top neurons, then that of all draws; None where image tokens have no place.
        patched: the residual stream patched from the corrupted picture, at this noun.
    """

    word: CaptionWord
    scores: NeuronScores
    top: Units
    control: RandomUnits
    log_probability: float
    ablated: float
    control_ablated: tuple[float, ...]
    caption_ablated: str
    caption_control: str
    maps: tuple[HeatMap, HeatMap] | None
    patched: PatchSweep

    @property
    def change(self) -> float:
        """Change of the noun's log-probability when its top neurons are ablated, in nats."""
        return self.ablated - self.log_probability

    @property
    def control_change(self) -> Interval:
        """The same for the control: the mean over the draws, and the interval in which 95% of them lie."""
        return self.control.interval([value - self.log_probability for value in self.control_ablated])


@dataclass(frozen=True)
class Tour:
    """What `tour` returns; `mmlens.viz.tour_report` writes it down.

    Attributes:
        image: the picture.
        corrupted: what the patched activations come from: a twin or a blurred picture.
        corrupted_what: which of the two, in words.
        prompt: what was asked.
        caption: what the model answered.
        nouns: one report per noun.
    """

    image: Image.Image = field(repr=False)
    corrupted: Image.Image = field(repr=False)
    corrupted_what: str
    prompt: str
    caption: str
    nouns: list[NounReport]


@torch.no_grad()
def tour(
    model: WritingModel,
    image: Picture,
    *,
    prompt: str = "describe the image",
    twins: dict[str, tuple[Image.Image, str]] | None = None,
    nouns: Nouns = None,
    k: int = 20,
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
        twins: by noun, the same picture with another thing in its place, and that thing's noun; nouns without a twin
            are patched from the blurred picture.
        nouns: as for `caption_nouns`.
        k: neurons per noun.
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
    corrupted = blur(model, batch)
    reports = []
    for word in tqdm(words, desc="nouns", disable=not progress):
        before = trace.tokens[:, : word.step]
        twin = (twins or {}).get(word.text)
        other = swap(model, batch, [twin[0]]) if twin else corrupted
        reports.append(
            _noun_report(
                model,
                batch,
                model.extend(batch, before),
                model.extend(other, before),
                word,
                other_token=twin[1] if twin else None,
                k=k,
                activation=activation,
                draws=draws,
                seed=seed,
                progress=progress,
            )
        )
    first = next(iter((twins or {}).values()), None)
    picture = first[0] if first else corrupted.images[0][0]
    return Tour(
        batch.images[0][0],
        picture,
        "a counterfactual twin" if first else "the blurred picture",
        prompt,
        trace.text[0],
        reports,
    )


def _noun_report(
    model: HookedMultimodal,
    batch: MultimodalBatch,
    at_word: MultimodalBatch,
    corrupted: MultimodalBatch,
    word: CaptionWord,
    *,
    other_token: str | None,
    k: int,
    activation: ActivationPoint,
    draws: int,
    seed: int,
    progress: bool,
) -> NounReport:
    token = word.tokens[0]
    scores = find_neurons(model, at_word, token=token, method=Contribution(activation))
    top = scores.top(k)
    control = random_units(model, top, draws=draws, seed=seed)
    return NounReport(
        word=word,
        scores=scores,
        top=top,
        control=control,
        log_probability=_log_probability(model, at_word, token),
        ablated=_log_probability(model, at_word, token, top),
        control_ablated=tuple(_log_probability(model, at_word, token, units) for units in control),
        caption_ablated=_caption(model, batch, top),
        caption_control=_caption(model, batch, control[0]),
        maps=_maps(model, batch, scores, top, control, activation),
        patched=_patched(model, at_word, corrupted, token, other_token, progress),
    )


def _log_probability(
    model: HookedMultimodal, at_word: MultimodalBatch, token: int, units: Units | None = None
) -> float:
    """Log-probability of the token in nats, perhaps with neurons ablated."""
    with model.intervene(*([Ablate(units)] if units else [])):
        return float(measure(model, at_word, metric=log_probability(token)))


def _caption(model: HookedMultimodal, batch: MultimodalBatch, units: Units) -> str:
    """The caption with neurons ablated."""
    with model.intervene(Ablate(units)):
        return model.trace_generation(batch, names="hook_logits", max_new_tokens=40).text[0]


def _maps(
    model: HookedMultimodal,
    batch: MultimodalBatch,
    scores: NeuronScores,
    top: Units,
    control: RandomUnits,
    activation: ActivationPoint,
) -> tuple[HeatMap, HeatMap] | None:
    control_units = Units(unit for units in control for unit in units)
    sets = {
        f"top {len(top)} for {scores.word!r}": top,
        f"random neurons of the same layers, {len(control)} draws": control_units,
    }
    try:
        first, second = activation_maps(model, batch, sets, activation=activation).values()
    except NoPlaceError:
        return None
    return first, second


def _patched(
    model: HookedMultimodal,
    at_word: MultimodalBatch,
    corrupted: MultimodalBatch,
    token: int,
    other: str | None,
    progress: bool,
) -> PatchSweep:
    """Denoise the residual stream: layers by {image, text, last}, where text is without the last position."""
    word = model.to_string(token).strip()
    metric = log_probability(token) if other is None else logit_difference(token, other)
    metric = replace(metric, name=metric.name.replace(f"{token!r}", f"{word!r}", 1))
    groups = {"image": positions.image, "text": positions.text - positions.last, "last": positions.last}
    return patch(
        model, at_word, corrupted, at="blocks.*.hook_resid_pre", metric=metric, positions=groups, progress=progress
    )
