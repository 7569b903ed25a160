"""`page`: a feature as it is looked at: its pictures with maps, its words, how often it fires, and what it does when clamped.

Everything stands beside a random feature of the same dictionary that fires as often.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from heapq import nlargest

import torch

from mmlens.analysis.controls.random_units import random_units
from mmlens.analysis.features.page_result import ClampedAnswers, FeaturePage, TextContext, TopPicture
from mmlens.analysis.features.words import feature_words, site_of
from mmlens.analysis.neurons.maps import activation_maps
from mmlens.analysis.samples.chunks import chunks_of
from mmlens.analysis.samples.sample import Dataset, Sample, as_samples, batches
from mmlens.analysis.statistics.intervals import mean_interval
from mmlens.analysis.steering.answers import answers
from mmlens.core.answer_text import words_of
from mmlens.core.contract import checked
from mmlens.core.errors import InputError, NoPlaceError
from mmlens.core.kinds import Count, CountOrZero, Positive, Seed, Several, Text
from mmlens.core.rules import Positions, as_rule
from mmlens.core.unit_sets import Units, UnitsLike
from mmlens.core.units import Feature, Unit
from mmlens.inputs.batch import MultimodalBatch
from mmlens.inputs.positions import resolve
from mmlens.inputs.row_reader import RowReader
from mmlens.interventions.ablation import Ablate
from mmlens.models.hooked import HookedMultimodal, WritingModel

_CONTEXT = 4  # tokens on either side


@dataclass
class _Sums:
    """What one pass over the samples finds of two features: sums by kind of row."""

    rows: dict[str, int] = field(default_factory=dict)
    fired: dict[str, torch.Tensor] = field(default_factory=dict)
    total: dict[str, float] = field(default_factory=dict)

    def add(self, kind: str, codes: torch.Tensor) -> None:
        """Count rows, `[row 2]`."""
        self.rows[kind] = self.rows.get(kind, 0) + len(codes)
        self.fired[kind] = self.fired.get(kind, torch.zeros(2)) + (codes > 0).sum(0)
        self.total[kind] = self.total.get(kind, 0.0) + float(codes[:, 0].sum())

    def density(self, column: int) -> dict[str, float]:
        """The share of rows in which a feature is not 0."""
        return {kind: float(self.fired[kind][column]) / rows for kind, rows in self.rows.items() if rows}


@checked
@torch.no_grad()
def page(
    model: WritingModel,
    feature: UnitsLike,
    data: Dataset,
    *,
    n_pictures: Count = 8,
    n_contexts: CountOrZero = 8,
    n_words: Count = 8,
    n_clamped: CountOrZero = 8,
    strengths: Several[Positive] = (1.0, 2.0),
    positions: Positions | None = None,
    prompt: Text | None = None,
    max_new_tokens: Count = 30,
    batch_size: Count = 8,
    seed: Seed = 0,
) -> FeaturePage:
    """Look at one feature of an attached dictionary; `.view().save("feature.html")` makes a page of it.

    One pass over the samples, one more over the top pictures, and for each strength two generations of `n_clamped` samples.

    Args:
        model: the hooked model, inside of `with model.attach(sae)`.
        feature: a feature, or its name: `"L3.f1027"`.
        data: a dataset of pictures.
        n_pictures, n_contexts, n_words: how many of each.
        n_clamped: samples on which the feature is held at a strength: those on which it is weakest.
        strengths: at how many times its largest code.
        positions: at which rows it is held; None for rows of pictures if more than half of its codes' sum lies there, else all.
        prompt: what samples without a prompt are asked.
        max_new_tokens: of an answer, at most.
        batch_size: samples at a time.
        seed: of the random feature.

    Returns:
        The page's content, which shows itself in a notebook.

    Raises:
        InputError: before any run, for a feature whose dictionary is not attached, or several; after one pass, if it never
            fires in these samples.

    Example:
        >>> with model.attach(sae):  # doctest: +SKIP
        ...     mm.features.page(model, "L3.f1027", mm.lab.scenes(100)).view().save("feature.html")
    """
    units = Units.of(feature, model, kind=Feature, verb="page")
    if len(units) != 1:
        raise InputError(f"A page is of one feature, found {len(units)}; make one for each.")
    samples = list(as_samples(data, prompt=prompt))
    if not samples:
        raise InputError("The dataset is empty: there is no sample to look at the feature on.")
    (unit,) = units
    if positions is not None:
        _, batch = next(batches(model, samples[:1], batch_size=1, progress=False))
        resolve(positions, batch, model.graph[unit.hook], steps=None)
    (control,) = random_units(
        model, units, match="firing_rate", draws=1, seed=seed, batch=samples[: min(len(samples), 64)]
    )[0]
    sums, strongest, contexts = _looked(model, unit, control, samples, batch_size)
    largest = max(strongest)
    if largest <= 0 and not contexts:
        raise InputError(f"{unit} is 0 in every row of these {len(samples)} samples; look at others.")
    order = sorted(range(len(samples)), key=strongest.__getitem__, reverse=True)
    total = sum(sums.total.values())
    weak = [samples[i] for i in reversed(order) if samples[i].pictures][:n_clamped]
    highest = max([largest, *(context.code for context in contexts)])
    image_share = sums.total.get("image", 0.0) / total if total else float("nan")
    if positions is None:
        positions = "image" if model.graph[unit.hook].sequence == "language" and image_share > 0.5 else "all"
    held = {
        value: [Ablate([feature_unit], value=value, positions=positions) for feature_unit in (unit, control)]
        for value in (highest * strength for strength in strengths)
    }
    before, clamped = _clamped(model, held, weak, max_new_tokens, batch_size)
    return FeaturePage(
        feature=unit,
        control=control,
        density=sums.density(0),
        control_density=sums.density(1),
        image_share=image_share,
        pictures=_pictures(
            model, unit, control, [(i, samples[i], strongest[i]) for i in order[:n_pictures] if strongest[i] > 0]
        ),
        contexts=tuple(nlargest(n_contexts, contexts, key=lambda context: context.code)),
        words=_words(model, unit, n_words),
        before=before,
        clamped=clamped,
        n_samples=len(samples),
    )


def _words(model: HookedMultimodal, unit: Unit, k: int) -> tuple[str, ...]:
    """What the feature writes; nothing where it writes into no stream that is read as words."""
    if unit.part != "language" or model.graph[site_of(unit)].role is None:
        return ()
    return tuple(feature_words(model, [unit], k=min(k, model.W_U.shape[1]))[0])


def _looked(
    model: HookedMultimodal, unit: Unit, control: Unit, samples: Sequence[Sample], batch_size: int
) -> tuple[_Sums, list[float], list[TextContext]]:
    """One pass: sums over rows, the largest code on each sample's pictures, and the strongest tokens of text of each sample."""
    node, sums = model.graph[unit.hook], _Sums()
    strongest: list[float] = []
    contexts: list[TextContext] = []
    kinds = {"image": "image", "text": "text"} if node.sequence == "language" else {"image": "all"}
    kinds = {"text": "all"} if node.sequence == "decoder" else kinds
    for chunk in chunks_of(model, samples, None, batch_size):
        batch = chunk.batch
        cache = model.run_with_cache(batch, names=unit.hook)[1]
        codes = cache[unit.hook][..., [unit.index, control.index]].float().cpu()
        largest = [0.0] * batch.size
        for kind, rule in kinds.items():
            if kind == "image" and not any(sample.images for sample in chunk.samples):
                continue
            reader = RowReader(as_rule(rule), batch, [node], required=False)
            rows = reader.flat(node, codes)
            sums.add(kind, rows)
            for number, values in enumerate(rows[:, 0].split(reader.counts[node.name])):
                if kind == "image" and len(values):
                    largest[number] = float(values.max())
                elif kind == "text" and node.sequence == "language" and len(values) and float(values.max()) > 0:
                    place = int(reader.resolved[node.name].rows[number][int(values.argmax()), 1])
                    contexts.append(_context(model, batch, number, place, float(values.max())))
        strongest += largest
    return sums, strongest, contexts


def _context(model: HookedMultimodal, batch: MultimodalBatch, sample: int, place: int, code: float) -> TextContext:
    """A token with those around it; places of a picture and of padding are left out."""
    ids, text = batch["input_ids"][sample].cpu(), (batch.layout.is_token & ~batch.layout.is_image)[sample].cpu()

    def said(start: int, end: int) -> str:
        rows = slice(max(0, start), end)
        return str(model.to_string(ids[rows][text[rows]])) if text[rows].any() else ""

    return TextContext(
        said(place - _CONTEXT, place), said(place, place + 1), said(place + 1, place + 1 + _CONTEXT), code
    )


def _pictures(
    model: HookedMultimodal, unit: Unit, control: Unit, top: Sequence[tuple[int, Sample, float]]
) -> tuple[TopPicture, ...]:
    """The maps of both features over each picture; none where rows have no place in the picture."""
    result = []
    for number, sample, strongest in top:
        batch = model.prepare([sample.prompt], images=[list(sample.pictures)])
        try:
            maps = activation_maps(model, batch, {str(unit): [unit], str(control): [control]})
        except NoPlaceError:
            return ()
        name = sample.name or f"sample {number}"
        result.append(TopPicture(name, sample.pictures[0], maps[str(unit)], maps[str(control)], strongest))
    return tuple(result)


def _clamped(
    model: HookedMultimodal,
    held: Mapping[float, Sequence[Ablate]],
    samples: Sequence[Sample],
    max_new_tokens: int,
    batch_size: int,
) -> tuple[tuple[str, ...], tuple[ClampedAnswers, ...]]:
    """What the model answers without, and with the feature or the random one held, by the code."""
    if not samples:
        return (), ()

    def answered(*interventions: Ablate) -> tuple[str, ...]:
        chunks = chunks_of(model, samples, None, batch_size)
        texts = (answers(model, chunk.batch, interventions, max_new_tokens=max_new_tokens) for chunk in chunks)
        return tuple(text for batch_texts in texts for text in batch_texts)

    before = answered()
    result = []
    for value, interventions in held.items():
        with_feature, with_control = map(answered, interventions)
        gains = _had(with_feature)
        gains.subtract(_had(before))
        words = tuple((word, count) for word, count in gains.most_common(6) if count > 0)
        changed, by_control = (
            mean_interval([new != old for new, old in zip(said, before, strict=True)])
            for said in (with_feature, with_control)
        )
        result.append(ClampedAnswers(value, with_feature, with_control, changed, by_control, words))
    return before, tuple(result)


def _had(answers: Sequence[str]) -> "Counter[str]":
    """In how many answers each word is."""
    return Counter(word for answer in answers for word in set(words_of(answer)))
