"""Runs measures over a dataset: caption, find the nouns' neurons, measure, a few samples at a time."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mmlens.analysis.neurons.points import neuron_layers
from mmlens.analysis.properties.cases import NeuronChoice, NounNeurons, Overall, Property, UnmeasurableError, case_of
from mmlens.analysis.properties.measurements import Measurements
from mmlens.analysis.properties.noun_occurrences import CaptionSettings, noun_occurrences
from mmlens.analysis.properties.quantities import Value
from mmlens.analysis.samples.chunks import DataChunk, chunks_of, shared_chunks
from mmlens.analysis.samples.sample import Dataset, Sample, length_of
from mmlens.core.checkpoint import Checkpoint
from mmlens.core.errors import InputError, NoPlaceError, UnsupportedModelError
from mmlens.core.unit_sets import Units
from mmlens.models.fingerprint import fingerprint
from mmlens.models.hooked import HookedMultimodal, WritingModel
from mmlens.models.identity import run_identity


def run(
    model: WritingModel,
    dataset: Dataset,
    measures: Sequence[Property | Overall],
    choice: NeuronChoice,
    *,
    settings: CaptionSettings | None = None,
    checkpoint: str | Path | None = None,
    skip_unmeasurable: bool = False,
    total: int | None = None,
    progress: bool = True,
) -> Measurements:
    """Measure the neurons of every noun that the model says of a dataset.

    Args:
        model: the hooked model.
        dataset: read once, in order, a few samples at a time.
        measures: what to measure.
        choice: how neurons are chosen.
        settings: how samples are captioned.
        checkpoint: a file that keeps what is measured, to go on from after an interruption.
        skip_unmeasurable: note what this model cannot have measured, and go on.
        total: number of samples for the progress bar, where the dataset cannot tell.
        progress: show a progress bar.

    Raises:
        InputError: if the model's neurons cannot be scored, or there are not k; if no noun was found, or nothing could be
            measured; for a checkpoint of something else.
        NoPlaceError, UnmeasurableError, UnsupportedModelError: if the model cannot have something measured, and that is not
            skipped.
    """
    layers = neuron_layers(model)  # refuses models whose neurons no module holds, before anything runs
    if choice.k > layers.count * layers.width:
        raise InputError(f"k={choice.k} must lie in 1..{layers.count * layers.width}, the number of neurons.")
    settings = settings or CaptionSettings()
    about: dict[str, Any] = {
        "model": type(model.hf_model).__name__,
        "fingerprint": fingerprint(model),
        "choice": repr(choice),
        "captions": str(settings),
        "measures": [repr(measure) for measure in measures if not isinstance(measure, Overall)],
    }
    properties = [measure for measure in measures if not isinstance(measure, Overall)]
    progress_file = Checkpoint(
        checkpoint,
        "report of neurons",
        lambda exact: run_identity(
            model, exact, choice=choice, captions=settings, measures=[properties, skip_unmeasurable]
        ),
    )
    about["identity"] = progress_file.identity
    parts = progress_file.parts.setdefault("parts", [])
    progress_file.parts.setdefault("samples", 0)

    def work(chunk: DataChunk) -> dict[str, Any]:
        return _part(model, chunk.samples, chunk.first, measures, choice, settings, skip_unmeasurable).as_json()

    chunks = chunks_of(model, dataset, None, settings.batch_size)
    total = length_of(dataset) if total is None else total
    for chunk, part in shared_chunks(
        model, chunks, work, checkpoint=progress_file, desc="neurons", total=total, progress=progress
    ):
        parts.append(part)
        progress_file.parts["samples"] += chunk.size
    return _joined([PartialResult.from_json(part) for part in parts], measures, about, progress_file.parts["samples"])


@dataclass(frozen=True)
class PartialResult:
    """What was measured of a few samples.

    Attributes:
        values: the numbers.
        nouns: the neurons of each noun.
        skipped: what could not be measured, and why.
    """

    values: Sequence[Value]
    nouns: Sequence[NounNeurons]
    skipped: Mapping[str, str]

    def as_json(self) -> dict[str, Any]:
        """As plain lists, short."""
        return {
            "values": [list(asdict(value).values()) for value in self.values],
            "nouns": [
                [noun.sample, noun.noun, {method: list(map(str, units)) for method, units in noun.neurons.items()}]
                for noun in self.nouns
            ],
            "skipped": dict(self.skipped),
        }

    @classmethod
    def from_json(cls, lists: Mapping[str, Any]) -> "PartialResult":
        """From what `as_json` gave."""
        nouns = [
            NounNeurons(sample, noun, {method: Units(names) for method, names in sets.items()})
            for sample, noun, sets in lists["nouns"]
        ]
        return cls([Value(*fields) for fields in lists["values"]], nouns, lists["skipped"])


def _part(
    model: HookedMultimodal,
    samples: Sequence[Sample],
    first: int,
    measures: Sequence[Property | Overall],
    choice: NeuronChoice,
    settings: CaptionSettings,
    skip_unmeasurable: bool,
) -> PartialResult:
    """Measure a few samples."""
    cases = [
        case_of(occurrence, choice)
        for number, sample in enumerate(samples, start=first)
        for occurrence in noun_occurrences(model, sample, settings, number=number)
    ]
    values: list[Value] = []
    skipped: dict[str, str] = {}
    for measure in measures:
        if isinstance(measure, Overall):
            continue
        try:
            values += measure.measure(cases)
        except (NoPlaceError, UnmeasurableError, UnsupportedModelError) as error:
            if not skip_unmeasurable:
                raise
            skipped[measure.label] = str(error)
    return PartialResult(values, [NounNeurons.of(case) for case in cases], skipped)


def _joined(
    parts: Sequence[PartialResult], measures: Sequence[Property | Overall], identity: dict[str, Any], samples: int
) -> Measurements:
    """All parts as one table, with what is measured over all of them."""
    nouns = [noun for part in parts for noun in part.nouns]
    if not nouns:
        raise InputError(
            f"No noun was found in the captions of {samples} samples, so there is nothing to measure; pass the nouns to look "
            "for."
        )
    values = [value for part in parts for value in part.values]
    for item in measures:
        if isinstance(item, Overall):
            values += item.over_all(nouns)
    if not values:
        raise InputError(
            "Nothing could be measured: samples must bring what a measure compares with (regions for localisation, a writing "
            "for cross-modality, several pictures of a noun for invariance); see mmlens.analysis.samples.sample.Sample."
        )
    skipped = {name: why for part in parts for name, why in part.skipped.items()}
    quantities = [quantity for item in measures for quantity in item.quantities]
    return Measurements.of(quantities, values, identity, skipped)
