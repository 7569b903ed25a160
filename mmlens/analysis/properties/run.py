"""Runs measures over a dataset: caption, find the nouns' neurons, measure, a few samples at a time."""

from collections.abc import Collection, Mapping, Sequence, Sized
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from mmlens.analysis.neurons.points import neuron_layers
from mmlens.analysis.nouns import Nouns
from mmlens.analysis.properties.cases import Choice, NounNeurons, Overall, Property, UnmeasurableError, case_of
from mmlens.analysis.properties.measured import Measured, Value
from mmlens.analysis.properties.noun_occurrences import mentions
from mmlens.analysis.samples import Dataset, Sample, as_samples
from mmlens.core.checkpoint import Checkpoint
from mmlens.core.errors import InputError, NoPlaceError, UnsupportedModelError
from mmlens.core.unit_sets import Units
from mmlens.models.fingerprint import fingerprint
from mmlens.models.hooked import HookedMultimodal


@dataclass(frozen=True)
class Reading:
    """How a dataset is read.

    Attributes:
        nouns: as for `mm.caption_nouns`.
        per_sample: how many nouns of a caption count, the first; None for all.
        max_new_tokens: upper bound on a caption's tokens.
        batch_size: samples among which a noun meets other nouns, its controls.
    """

    nouns: Nouns = None
    per_sample: int | None = None
    max_new_tokens: int = 30
    batch_size: int = 8

    def __post_init__(self) -> None:
        if self.batch_size < 1 or (self.per_sample is not None and self.per_sample < 1):
            raise InputError(
                f"batch_size={self.batch_size} and the nouns per sample ({self.per_sample}) must be at least 1."
            )

    def __str__(self) -> str:
        nouns = sorted(self.nouns) if isinstance(self.nouns, Collection) else getattr(self.nouns, "__name__", None)
        return f"{nouns}, {self.per_sample}, {self.max_new_tokens}, {self.batch_size}"


def run(
    model: HookedMultimodal,
    dataset: Dataset,
    measures: Sequence[Property | Overall],
    choice: Choice,
    *,
    reading: Reading | None = None,
    checkpoint: str | Path | None = None,
    skip_unmeasurable: bool = False,
    total: int | None = None,
    progress: bool = True,
) -> Measured:
    """Measure the neurons of every noun that the model says of a dataset.

    Args:
        model: the hooked model.
        dataset: read once, in order, a few samples at a time.
        measures: what to measure.
        choice: how neurons are chosen.
        reading: how the dataset is read.
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
    reading = reading or Reading()
    settings = {
        "model": type(model.hf_model).__name__,
        "fingerprint": fingerprint(model),
        "choice": repr(choice),
        "reading": str(reading),
        "measures": [repr(each) for each in measures if not isinstance(each, Overall)],
    }
    finished = Checkpoint(checkpoint, "report of neurons", settings)
    parts: list[Part] = []
    samples, number = as_samples(dataset), 0
    total = len(dataset) if isinstance(dataset, Sized) else total
    with tqdm(total=total, desc="neurons", disable=not progress) as bar:
        while some := list(islice(samples, reading.batch_size)):
            key = " ".join([str(number), *(sample.key for sample in some)])
            if key not in finished.parts:
                part = _part(model, some, number, measures, choice, reading, skip_unmeasurable)
                finished.parts[key] = part.as_json()
                finished.save(now=True)
            parts.append(Part.from_json(finished.parts[key]))
            number += len(some)
            bar.update(len(some))
    return _joined(parts, measures, settings, number)


@dataclass(frozen=True)
class Part:
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
    def from_json(cls, lists: Mapping[str, Any]) -> "Part":
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
    choice: Choice,
    reading: Reading,
    skip_unmeasurable: bool,
) -> Part:
    """Measure a few samples."""
    cases = [
        case_of(mention, choice)
        for number, sample in enumerate(samples, start=first)
        for mention in mentions(
            model,
            sample,
            number=number,
            nouns=reading.nouns,
            per_sample=reading.per_sample,
            max_new_tokens=reading.max_new_tokens,
        )
    ]
    values: list[Value] = []
    skipped: dict[str, str] = {}
    for each in measures:
        if isinstance(each, Overall):
            continue
        try:
            values += each.measure(cases)
        except (NoPlaceError, UnmeasurableError, UnsupportedModelError) as error:
            if not skip_unmeasurable:
                raise
            skipped[each.label] = str(error)
    return Part(values, [NounNeurons.of(case) for case in cases], skipped)


def _joined(
    parts: Sequence[Part], measures: Sequence[Property | Overall], settings: dict[str, Any], samples: int
) -> Measured:
    """All parts as one table, with what is measured over all of them."""
    nouns = [noun for part in parts for noun in part.nouns]
    if not nouns:
        raise InputError(
            f"No noun was found in the captions of {samples} samples, so there is nothing to measure; pass the nouns to look "
            "for."
        )
    values = [value for part in parts for value in part.values]
    for each in measures:
        if isinstance(each, Overall):
            values += each.over_all(nouns)
    if not values:
        raise InputError(
            "Nothing could be measured: samples must bring what a measure compares with (regions for localisation, a writing "
            "for cross-modality, several pictures of a noun for invariance); see mmlens.analysis.samples.Sample."
        )
    skipped = {name: why for part in parts for name, why in part.skipped.items()}
    quantities = [quantity for each in measures for quantity in each.quantities]
    return Measured.of(quantities, values, settings, skipped)
