"""Pan et al., "Finding and Editing Multi-Modal Neurons in Pre-Trained Transformers", Findings of ACL 2024
(https://arxiv.org/abs/2311.07470), stage by stage.

*Departs:* the prefix "An image of" is not put into the model's mouth; nouns are scored at all of their tokens and at their own
place; controls are of the same layers. The published tables could not be read, so that the paper's column is blank.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

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
from mmlens.analysis.samples.sample import Sample, batch_of
from mmlens.analysis.study_table import StudyValue
from mmlens.core.answer_text import says
from mmlens.interventions.edits.words import replace_token
from mmlens.recipes.pan_settings import PanSettings
from mmlens.recipes.stage import Outcome, UnanswerableError, stages
from mmlens.recipes.study import Study, counted


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
    """The words of neurons beside noun, caption and picture."""
    scorers = [scorer.name for scorer in study.scorers]
    notes = [] if scorers else ["CLIPScore and BERTScore need local checkpoints: pass --clip and --bert."]
    starts = ("noun among", "rank of", "words the caption", "words that are true", "words in", *scorers)
    measured = _neurons(study)
    names = [name for name in dict.fromkeys(measured.values["quantity"]) if not name.startswith(_OTHERS)]
    return _outcome(measured, [*notes, "MoverScore and BLEURT are not measured here."], tuple(names) or starts)


_OTHERS = ("shared by", "exclusive", "crucial", "in layer", "pictures of")


def image_invariance(study: Study) -> Outcome:
    """Neurons that pictures of a noun share: two of them, and all of several."""
    return _outcome(
        _neurons(study), ["The paper's formula is not in its code: pairwise, and common to all (NAM)."], ("shared by",)
    )


def specificity(study: Study) -> Outcome:
    """Neurons that are of one noun alone."""
    return _outcome(
        _neurons(study), ["NAM's definition; the paper's own is not in its code."], ("exclusive", "crucial")
    )


def layers(study: Study) -> Outcome:
    """Layers of the neurons."""
    outcome = _outcome(_neurons(study), (), ("in layer",))
    return Outcome([row for row in outcome.rows if row.value], outcome.notes)


def region_invariance(study: Study) -> Outcome:
    """Neurons that stay when the picture's tokens are permuted."""
    measure = RegionInvariance(_ks(study), _captioned(study), study.seed)
    return _outcome(_measure(study, "regions", [measure], max(_ks(study)), study.settings.samples))


def causal(study: Study) -> Outcome:
    """Nouns and captions with the neurons' rows perturbed: noise, and zeros."""
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


@dataclass(frozen=True)
class _EditData:
    """A noun to be edited into another one, and pictures whose captions say it (some are taught), and pictures without it."""

    source: str
    target: str
    taught: list[Sample]
    held_out: list[Sample]
    others: list[Sample]


def _edit_data(study: Study) -> _EditData:
    measured = _neurons(study)
    said = measured.values[measured.values["sample"] >= 0].drop_duplicates(["sample", "noun"])
    counts = Counter(said["noun"])
    if len(counts) < 2:
        raise UnanswerableError(f"An edit needs two nouns, and captions have {', '.join(counts) or 'none'}.")
    (source, n), (target, _) = counts.most_common(2)
    numbers = set(said[said["noun"] == source]["sample"])
    samples = study.captions(study.settings.samples)
    shown = [sample for number, sample in enumerate(samples) if number in numbers]
    others = [sample for number, sample in enumerate(samples) if number not in numbers and not _shows(sample, source)]
    n_taught = max(1, min(4, n // 2))
    if len(shown) == n_taught or not others:
        raise UnanswerableError(f"{n} captions say {source!r} and {len(others)} do not; an edit is judged on both.")
    return _EditData(source, target, shown[:n_taught], shown[n_taught:], others[: len(shown)])


def edits(study: Study) -> Outcome:
    """A noun edited into another: the one that is said most often."""
    settings: PanSettings = study.settings
    data, tokens = _edit_data(study), settings.max_new_tokens
    captions = find_caption_neurons(
        study.model, data.taught[:1], nouns=[data.source], method=Contribution("down_in"), max_new_tokens=tokens,
        progress=False,
    )  # fmt: skip
    neurons = captions[0][data.source].top(settings.edit_k)
    batch = batch_of(study.model, data.taught)
    report = edit_report(
        study.model,
        {
            method: replace_token(
                study.model, batch, source=data.source, target=data.target, neurons=neurons, method=method,
                max_new_tokens=tokens, progress=study.progress,
            )
            for method in ("direct", "through")
        },
        targets={"taught": data.taught, "held out": data.held_out}, controls={"other pictures": data.others}, consistency={},
        matched=2, max_new_tokens=tokens, checkpoint=study.shared("edits.ck"), progress=study.progress,
    )  # fmt: skip
    table = []
    for name in ("direct", "through"):
        for group in ("taught", "held out"):
            quantity = f"{data.source} becomes {data.target}, {group}"
            table.append(StudyValue.of(name, quantity, report.success(name, group), "share of captions"))
        changed = report.changed(name, "other pictures")
        table.append(StudyValue.of(name, "other captions changed", changed, "share of captions"))
    notes = [
        "The paper's editor is in no code; `direct` is our reconstruction of it, `through` follows its authors' next one (FiNE).",
        f"The first {settings.edit_k} neurons of {data.source!r}; the down projection's input is what a row is multiplied by.",
    ]
    return Outcome(table, notes, {"frontier": report.plot()}, {"report.json": report})


def _shows(sample: Sample, noun: str) -> bool:
    return any(says(text, noun) for text in (sample.caption or "", *sample.references))


STAGES = stages(sensitivity, region_invariance, image_invariance, specificity, causal, layers, cost, edits)
