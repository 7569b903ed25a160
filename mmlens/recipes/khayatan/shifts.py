"""Fine-tunes and what they do to concepts, after Khayatan et al., ICCV 2025 (https://arxiv.org/abs/2501.03012)."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import nn

from mmlens.analysis.concepts.extract import extract_concepts
from mmlens.analysis.shift.layers import LayerShifts, layer_shifts
from mmlens.analysis.shift.result import ConceptShift, Quantity, correlation_of
from mmlens.analysis.shift.shift import concept_shift
from mmlens.analysis.statistics.intervals import Interval
from mmlens.analysis.store.collect import collect
from mmlens.analysis.store.states import States
from mmlens.analysis.study_table import StudyValue
from mmlens.analysis.tuning.finetune import finetune
from mmlens.analysis.tuning.tune import Tune, with_adapters
from mmlens.core.errors import InputError
from mmlens.models.hooked import HookedMultimodal
from mmlens.recipes.khayatan.settings import KhayatanSettings
from mmlens.recipes.stage import Outcome, UnanswerableError
from mmlens.recipes.study import Study

_POINT = "ln_final.hook_out"  # what the unembedding reads, as in the published script
_QUANTITIES: dict[Quantity, str] = {"consistency": "cosine", "recovery": "share", "recovery_distance": "share"}
_RECOVERY: Quantity = "recovery"
_WITH_RECOVERY: tuple[Quantity, ...] = ("consistency", "magnitude")


def _tunes(study: Study) -> dict[str, Tune]:
    """A fine-tune towards each of the sets."""
    settings: KhayatanSettings = study.settings
    sets = study.sources.tunes(study.count(settings.tune_samples), settings.prompt, study.seed)
    tunes = {}
    for name, samples in sets.items():
        if samples:
            tunes[name] = finetune(
                study.model, samples, into=study.shared(f"tune {name}"), rank=settings.rank, steps=study.count(settings.steps),
                batch_size=study.count(settings.tune_batch), rate=settings.rate, seed=study.seed, progress=study.progress,
            )  # fmt: skip
    if not tunes:
        raise UnanswerableError(f"Nothing in {study.sources.title} is said about {', '.join(sets)}.")
    return tunes


@contextmanager
def _tuned(model: HookedMultimodal, tunes: dict[str, Tune]) -> Iterator[HookedMultimodal]:
    """The model with its fine-tunes inside the `with`."""
    tuned = with_adapters(model, tunes)
    try:
        yield tuned
    finally:
        cast(Any, cast(nn.Module, tuned.hf_model).base_model).unload()
        model.follow()


def _states(study: Study) -> tuple[States, dict[str, States], dict[str, Tune]]:
    """States that predict the words in captions of the same pictures: of the model, and of each fine-tune."""

    def make() -> tuple[States, dict[str, States], dict[str, Tune]]:
        settings: KhayatanSettings = study.settings
        tunes = _tunes(study)
        samples = study.captions(settings.shift_captions)
        words = study.sources.words.tokens

        def read(model: HookedMultimodal, name: str) -> States:
            return collect(
                model, samples, at=_POINT, token=words, every_word=True, max_new_tokens=settings.caption_tokens,
                into=study.shared(f"states {name}"), progress=study.progress,
            ).at(_POINT)  # fmt: skip

        base = read(study.model, "base")
        states = {}
        with _tuned(study.model, tunes) as tuned:
            for name in tunes:
                with tuned.adapter(name):
                    states[name] = read(tuned, name)
        return base, states, tunes

    return study.once("shift states", make)


def _shifts(study: Study) -> tuple[dict[str, ConceptShift], list[str]]:
    """The shift of each fine-tune's concepts, where both models say the word; and why others have none."""
    settings: KhayatanSettings = study.settings
    base, states, _ = _states(study)
    shifts, reasons = {}, []
    for name, tuned in states.items():
        try:
            common = len(set(base.keys) & set(tuned.keys))
            bank = extract_concepts(base, max(2, min(settings.n_concepts, common // 5)), method="kmeans")
            shifts[name] = concept_shift(base, tuned, bank, pairs="common")
        except InputError as error:
            reasons.append(f"{name} is left out: {' '.join(str(error).split())}")
    if not shifts:
        raise UnanswerableError(" ".join(reasons))
    return shifts, reasons


def shift(study: Study) -> Outcome:
    """Concepts of fine-tunes: how far they moved, how alike their samples moved, and how near that brings them."""
    shifts, notes = _shifts(study)
    tunes = _states(study)[2]
    table = []
    for name, result in shifts.items():
        losses = tunes[name].losses
        size = result.magnitude[result.magnitude.isfinite()]
        table += [
            StudyValue(
                name,
                "loss of the fine-tune",
                sum(losses[-10:]) / len(losses[-10:]),
                "nats per token",
                control=losses[0],
            ),
            StudyValue(name, "pairs", len(result.shifts), "samples"),
            StudyValue(name, "least magnitude", float(size.min()), "length"),
            StudyValue(name, "largest magnitude", float(size.max()), "length"),
        ]
        shuffled = result.control("shuffled", seed=study.seed)
        for quantity, unit in _QUANTITIES.items():
            control = None if quantity == "consistency" else shuffled.mean(quantity).mean
            table.append(StudyValue.of(name, quantity.replace("_", " "), result.mean(quantity), unit, control=control))
        overlap = result.sample_overlap.nanmean(1)
        table.append(
            StudyValue(name, "shared pictures, shifted", float(overlap[1]), "share", control=float(overlap[0]))
        )
        for fate in dict.fromkeys(result.fate):
            table.append(
                StudyValue(name, f"concepts {fate}", result.fate.count(fate), "concepts", count=len(result.fate))
            )
        table.append(StudyValue(name, "concepts appeared", len(result.appeared), "concepts", count=len(result.tuned)))
    held_out = _held_out(study)
    for line in [] if held_out is None else held_out.to_frame().to_dict("records"):
        interval = Interval(line["mean"], line["low"], line["high"], int(line["concepts"]))
        table.append(
            StudyValue.of(line["shift"], "recovery distance, held out", interval, "share", control=line["control"],
                   note=f"beyond other concepts' shifts: p {line['p_corrected']:.2g}")
        )  # fmt: skip
    note = "Controls are other concepts' shifts. As published, shift and match are of the same samples; held out they are not."
    figures = {f"shift {name}": result.plot() for name, result in shifts.items()}
    return Outcome(table, [note, *notes], figures, {f"{name}.safetensors": result for name, result in shifts.items()})


def _held_out(study: Study) -> LayerShifts | None:
    base, states, _ = _states(study)
    try:
        return layer_shifts(dict.fromkeys(states, base), states, study.settings.n_concepts, seed=study.seed)
    except InputError:
        return None  # too few samples for halves; the shifts of all stand


def recovery(study: Study) -> Outcome:
    """Recovery of concepts beside how alike and how far their samples moved."""
    shifts, notes = _shifts(study)
    table = []
    for first in _WITH_RECOVERY:
        pooled = correlation_of(
            *(torch.cat([result.values(name) for result in shifts.values()]) for name in (first, _RECOVERY))
        )
        correlations = {name: result.correlation(first, _RECOVERY) for name, result in shifts.items()}
        for name, r in {**correlations, "all": pooled}.items():
            interval = Interval(r.r, r.low, r.high, r.n_concepts)
            table.append(StudyValue.of(name, f"{first} and recovery", interval, "Pearson r", note=f"p {r.p:.2g}"))
    note = "The paper: positive, significant for consistency; its numbers are not known here."
    return Outcome(table, [note, *notes])
