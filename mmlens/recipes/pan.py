"""Pan et al., "Finding and Editing Multi-Modal Neurons in Pre-Trained Transformers", Findings of ACL 2024
(https://arxiv.org/abs/2311.07470), stage by stage.

*Departs:* the prefix "An image of" is not put into the model's mouth; nouns are scored at all of their tokens and at their own
place; controls are of the same layers. The published tables could not be read, so that the paper's column is blank.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from mmlens.analysis.edits.report import edit_report
from mmlens.analysis.neurons.captions import find_caption_neurons
from mmlens.analysis.neurons.methods.contribution import Contribution
from mmlens.analysis.neurons.methods.gradient_x_activation import GradientXActivation
from mmlens.analysis.neurons.methods.random_scores import Random
from mmlens.analysis.neurons.points import neuron_layers
from mmlens.analysis.properties.cases import NeuronChoice, Overall, Property
from mmlens.analysis.properties.causal import Causal
from mmlens.analysis.properties.exclusivity import Exclusive
from mmlens.analysis.properties.invariance import ImageInvariance, RegionInvariance
from mmlens.analysis.properties.layers import LayerShares
from mmlens.analysis.properties.measurements import Measurements
from mmlens.analysis.properties.noun_occurrences import CaptionSettings
from mmlens.analysis.properties.quantities import is_control
from mmlens.analysis.properties.run import run
from mmlens.analysis.properties.sensitivity import Sensitivity
from mmlens.analysis.samples.sample import Sample
from mmlens.analysis.study_table import StudyValue
from mmlens.core.answer_text import says
from mmlens.core.contract import checked
from mmlens.core.kinds import Count, NonNegative, Positive, Several, Text
from mmlens.interventions.edits.words import replace_token
from mmlens.recipes.stage import Outcome, Stage, UnanswerableError
from mmlens.recipes.study import Study, counted


@checked
@dataclass(frozen=True)
class PanSettings:
    """What decides the study.

    Attributes:
        prompt: what is asked of each picture; the samples' own if None.
        activation: which number of a neuron is multiplied by what it writes: the down projection's input, or the activation
            function's output, as published.
        samples: pictures.
        max_new_tokens: of a caption.
        ks: how many neurons, for curves.
        words: of each neuron.
        causal_k, sigma, row_units: how many neurons get noise, of which size, and whether that is in units of their rows.
        causal_samples: pictures of the causal stage.
        edit_k, penalty: how many rows are edited, and the weight of the norm of their change.
        draws: sets of random neurons.
        together: pictures that have to share a neuron.
        concept_k, pictures: neurons of a noun over all of its pictures; nouns of fewer pictures are not counted.
    """

    prompt: Text | None = None
    activation: Literal["down_in", "act"] = "down_in"
    samples: Count = 60
    max_new_tokens: Count = 30
    ks: Several[Count] = (1, 5, 20)
    words: Count = 5
    causal_k: Count = 20
    sigma: Positive = 1.0
    row_units: bool = True
    causal_samples: Count = 24
    edit_k: Count = 5
    penalty: NonNegative = 0.1
    draws: Count = 5
    together: Count = 5
    concept_k: Count = 20
    pictures: Count = 3

    @classmethod
    def published(cls) -> "PanSettings":
        """The paper's, as far as its text, code and summaries tell: `sigma`, the number of neurons that get noise and those that
        are edited are not in its code's defaults."""
        return cls(
            prompt="Describe the image in few words.",
            activation="act",
            samples=1000,
            max_new_tokens=50,
            ks=(1, 10, 50, 100, 500, 1000),
            words=10,
            causal_k=5,
            sigma=0.5,
            row_units=False,
            causal_samples=1000,
            together=10,
            concept_k=500,
        )


def _choice(study: Study, k: int) -> NeuronChoice:
    """Their neurons, those of Mmns beside them, and random ones."""
    settings: PanSettings = study.settings
    methods = (Contribution(settings.activation), GradientXActivation(), Random())
    return NeuronChoice(methods, k, study.seed, settings.draws)


def _ks(study: Study) -> tuple[int, ...]:
    layers = neuron_layers(study.model)
    ks = tuple(k for k in study.settings.ks if k <= layers.count * layers.width // 4)
    return ks or (1,)


def _captioned(study: Study) -> CaptionSettings:
    return CaptionSettings(study.sources.words.nouns, None, study.settings.max_new_tokens)


def _measure(study: Study, name: str, measures: Sequence[Property | Overall], k: int, n: int) -> Measurements:
    """Measurements that a file keeps: finished, or so far."""

    def make() -> Measurements:
        file, unfinished = study.shared(f"{name}.json"), study.shared(f"{name}.ck")
        if file.exists():
            return Measurements.load(file)
        samples = study.captions(n)
        measured = run(
            study.model, samples, measures, _choice(study, k), settings=_captioned(study), checkpoint=unfinished,
            skip_unmeasurable=True, total=len(samples), progress=study.progress,
        )  # fmt: skip
        measured.save(file)
        unfinished.unlink(missing_ok=True)
        return measured

    return study.once(name, make)


def _neurons(study: Study) -> Measurements:
    """What is read off the neurons of all nouns, in one pass over the pictures."""
    settings: PanSettings = study.settings
    ks, layers = _ks(study), neuron_layers(study.model)
    k = min(settings.causal_k, max(ks))
    measures: list[Property | Overall] = [
        Sensitivity(settings.words, study.scorers, k),
        ImageInvariance(ks, settings.together),
        Exclusive(min(settings.concept_k, max(ks)), settings.pictures),
        LayerShares(layers.count),
    ]
    return _measure(study, "neurons", measures, max(ks), settings.samples)


def _outcome(measured: Measurements, notes: Sequence[str] = (), starts: Sequence[str] = ()) -> Outcome:
    """The numbers of some quantities, by their names' first words."""
    table = list(_rows(measured, tuple(starts)))
    if not table:
        reason = "; ".join(measured.skipped.values()) or "no noun is said of enough pictures"
        raise UnanswerableError(f"Nothing was measured: {reason}.")
    return Outcome(table, notes)


def _rows(measured: Measurements, starts: tuple[str, ...]) -> Iterator[StudyValue]:
    """One row per quantity, choice of neurons and number of them, beside random neurons of the same layers."""
    for line in measured.to_frame().to_dict("records"):
        name, method, k = line["quantity"], line["method"], int(line["k"])
        if is_control(method) or not name.startswith(starts or ("",)):
            continue
        interval = measured.interval(name, method, k=k)
        beside = line.get("minus_control", math.nan)
        note = "" if math.isnan(beside) else f"{beside:+.3g} beside {line['control']}"
        case = f"{_NAMES.get(method.split(' ')[0].split('(')[0], method)}, top {k}"
        yield StudyValue.of(case, name, interval, line["unit"], control=line.get("random"), note=note)


_NAMES = {
    "contribution": "theirs",
    "Contribution": "theirs",
    "gradient_x_activation": "Mmns",
    "GradientXActivation": "Mmns",
}


def sensitivity(study: Study) -> Outcome:
    """The words of neurons beside the noun, the caption and the picture."""
    scorers = [scorer.name for scorer in study.scorers]
    notes = [] if scorers else ["CLIPScore and BERTScore need local checkpoints: pass --clip and --bert."]
    starts = ("noun among", "rank of", "words the caption", "words that are true", "words in", *scorers)
    measured = _neurons(study)
    names = [name for name in dict.fromkeys(measured.values["quantity"]) if not name.startswith(_OTHERS)]
    return _outcome(measured, [*notes, "MoverScore and BLEURT are not measured here."], tuple(names) or starts)


_OTHERS = ("shared by", "exclusive", "crucial", "in layer", "pictures of")


def image_invariance(study: Study) -> Outcome:
    """Neurons that two pictures of a noun share, and all of several."""
    return _outcome(
        _neurons(study), ["The paper's formula is not in its code: pairwise, and common to all (NAM)."], ("shared by",)
    )


def specificity(study: Study) -> Outcome:
    """Neurons that are of one noun alone."""
    return _outcome(
        _neurons(study), ["NAM's definition; the paper's own is not in its code."], ("exclusive", "crucial")
    )


def layers(study: Study) -> Outcome:
    """Where the neurons lie."""
    outcome = _outcome(_neurons(study), (), ("in layer",))
    return Outcome([row for row in outcome.rows if row.value], outcome.notes)


def region_invariance(study: Study) -> Outcome:
    """Neurons that stay when the picture's tokens are permuted."""
    measure = RegionInvariance(_ks(study), _captioned(study), study.seed)
    return _outcome(_measure(study, "regions", [measure], max(_ks(study)), study.settings.samples))


def causal(study: Study) -> Outcome:
    """Noise on the neurons' rows, and zeros."""
    settings: PanSettings = study.settings
    k = min(settings.causal_k, max(_ks(study)))
    measures: list[Property | Overall] = [
        Causal((way,), (k,), (settings.sigma,), captions=way == "zero", settings=_captioned(study), seed=study.seed,
               row_units=settings.row_units)
        for way in ("noise", "zero")
    ]  # fmt: skip
    unit = "of the rows' root mean square" if settings.row_units else "absolute"
    note = f"sigma {settings.sigma:g}, {unit}; how many neurons and which sigma the paper took is not in its code."
    return _outcome(_measure(study, "causal", measures, k, settings.causal_samples), [note])


def cost(study: Study) -> Outcome:
    """What finding costs, beside Mmns: passes, and seconds of a processor."""
    samples = study.captions(study.settings.samples)[:8]
    table = []
    for name, method in (("theirs", Contribution(study.settings.activation)), ("Mmns", GradientXActivation())):
        with counted(study.model) as count:
            captions = find_caption_neurons(
                study.model, samples, nouns=study.sources.words.nouns, method=method,
                max_new_tokens=study.settings.max_new_tokens, progress=False,
            )  # fmt: skip
        n = len(samples)
        table += [
            StudyValue(name, "forward passes", count.forwards / n, "passes per picture", count=n),
            StudyValue(name, "nouns", sum(map(len, captions)) / n, "nouns per picture", count=n),
            StudyValue(name, "time", count.seconds / n, "seconds of processor per picture", count=n),
        ]
    return Outcome(table, ["Pictures go through the model in batches of 8; Mmns needs a backward pass a noun besides."])


def edits(study: Study) -> Outcome:
    """The noun that is said most often, edited into another one."""
    settings: PanSettings = study.settings
    measured = _neurons(study)
    said = measured.values[measured.values["sample"] >= 0].drop_duplicates(["sample", "noun"])
    counts = Counter(said["noun"])
    if len(counts) < 2:
        raise UnanswerableError(f"An edit needs two nouns, and captions have {', '.join(counts) or 'none'}.")
    (source, n), (target, _) = counts.most_common(2)
    numbers = set(said[said["noun"] == source]["sample"])
    samples = study.captions(settings.samples)
    shown = [sample for number, sample in enumerate(samples) if number in numbers]
    others = [sample for number, sample in enumerate(samples) if number not in numbers and not _shows(sample, source)]
    taught, held_out = shown[: max(1, min(4, n // 2))], shown[max(1, min(4, n // 2)) :]
    if not held_out or not others:
        raise UnanswerableError(f"{n} captions say {source!r} and {len(others)} do not; an edit is judged on both.")
    captions = find_caption_neurons(
        study.model,
        taught[:1],
        nouns=[source],
        method=Contribution("down_in"),
        max_new_tokens=settings.max_new_tokens,
        progress=False,
    )
    neurons = captions[0][source].top(settings.edit_k)
    batch = study.model.prepare([s.prompt for s in taught], images=[list(s.pictures) for s in taught])
    report = edit_report(
        study.model,
        {
            method: replace_token(
                study.model, batch, source=source, target=target, neurons=neurons, method=method,
                max_new_tokens=settings.max_new_tokens, progress=study.progress,
            )
            for method in ("direct", "through")
        },
        targets={"taught": taught, "held out": held_out}, controls={"other pictures": others[: len(shown)]}, consistency={},
        matched=2, max_new_tokens=settings.max_new_tokens, checkpoint=study.shared("edits.ck"), progress=study.progress,
    )  # fmt: skip
    table = []
    for name in ("direct", "through"):
        for group in ("taught", "held out"):
            table.append(
                StudyValue.of(
                    name, f"{source} becomes {target}, {group}", report.success(name, group), "share of captions"
                )
            )
        table.append(
            StudyValue.of(name, "other captions changed", report.changed(name, "other pictures"), "share of captions")
        )
    notes = [
        "The paper's editor is in no code; `direct` is our reconstruction of it, `through` follows its authors' next one (FiNE).",
        f"The first {settings.edit_k} neurons of {source!r}; the down projection's input is what a row is multiplied by.",
    ]
    return Outcome(table, notes, {"frontier": report.plot()}, {"report.json": report})


def _shows(sample: Sample, noun: str) -> bool:
    return any(says(text, noun) for text in (sample.caption or "", *sample.references))


STAGES = (
    Stage("sensitivity", "the words of neurons beside noun, caption and picture", sensitivity),
    Stage("region_invariance", "neurons that stay when the picture's tokens are permuted", region_invariance),
    Stage("image_invariance", "neurons that pictures of a noun share", image_invariance),
    Stage("specificity", "neurons that are of one noun alone", specificity),
    Stage("causal", "nouns and captions with the neurons' rows perturbed", causal),
    Stage("layers", "layers of the neurons", layers),
    Stage("cost", "what finding costs, beside Mmns", cost),
    Stage("edits", "a noun edited into another", edits),
)
