"""Methods against hallucination in one report: what each mends, what it costs, and what random changes as strong do."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import cast

import torch

from mmlens.analysis.mitigation.method import Force, MitigationChoices, MitigationMethod
from mmlens.analysis.mitigation.result import MitigationReport, TaskScores
from mmlens.analysis.mitigation.tasks import TASKS, FurtherScore, Scoring, Tasks
from mmlens.analysis.samples.sample import Sample, as_samples, batches
from mmlens.analysis.scores.objects import COCO_WORDS, ObjectWords
from mmlens.analysis.scores.pope import PopeRule
from mmlens.analysis.scores.safety import Judge
from mmlens.analysis.scores.vqa import VqaRule
from mmlens.core.contract import checked
from mmlens.core.errors import InputError
from mmlens.core.kinds import Count, Distinct, Seed
from mmlens.inputs.batch import MultimodalBatch
from mmlens.models.hooked import HookedMultimodal, WritingModel
from mmlens.models.identity import run_identity


@checked
@torch.no_grad()
def mitigation_report(
    model: WritingModel,
    data: Tasks,
    *,
    methods: MitigationChoices,
    words: ObjectWords = COCO_WORDS,
    pope_rule: PopeRule = "official",
    vqa_rule: VqaRule = "corrected",
    judge: Judge | None = None,
    scorers: Mapping[str, FurtherScore] | None = None,
    seeds: Distinct[Seed] | tuple[()] = (0, 1),
    max_new_tokens: Mapping[str, Count] | None = None,
    batch_size: Count = 8,
    progress: bool = True,
) -> MitigationReport:
    """Answer the same prompts with each method in force, without any, and with random changes as strong as the methods.

    A method mends something only where its answers are better than the model's own *and* than those under its random control:
    random directions of the steering vectors' lengths, random signs of the boosts of attention, as much attention taken from
    random columns as from sinks, as many random units and rows as are ablated, contrasts that are dealt out to other tokens.
    Choose settings on other samples than those that are reported.

    Args:
        model: the hooked model.
        data: samples by task: `"pope"` (questions with the answer yes or no), `"captions"` (pictures with known objects; CIDEr-D
            too where all have references), `"questions"` (with references; by their `answer_type`), `"attacks"` (requests that
            should be refused), `"harmless"` (requests that should not).
        methods: by name: `"boosted"` (PAI), `"contrasted"` (VCD, ICD), `"visually_steered"` (VISTA), or settings of
            `mm.mitigation`; `mm.mitigation.Intervened((...,))` for any interventions.
        words: that name objects in captions.
        pope_rule, vqa_rule: how answers are read; see `mm.scorers.pope`, `mm.scorers.vqa_accuracy`.
        judge: of answers to attacks, from sample and answer to 0 (refused) .. 1 (done); refusal words by default.
        scorers: further scores of answers to questions, by name: functions of sample and answer.
        seeds: of the random controls, one run each; none for no controls.
        max_new_tokens: by task; 5 for `"pope"`, 10 for `"questions"`, 64 for the others.
        batch_size: samples at a time; only so many pictures are in memory.
        progress: show a progress bar.

    Returns:
        The report: `.to_frame()`, `.plot()`, `.save(path)`.

    Raises:
        InputError: for samples that a task cannot score, and methods that cannot be done to the first batch of a task, before
            anything runs; for methods that cannot be done to a later one.

    Example:
        >>> import mmlens as mm
        >>> sample = mm.Sample((scene.image,), "is there a moon", answer="yes", name="1")
        >>> report = mm.mitigation_report(
        ...     model, {"pope": [sample]}, methods={"boosted": "boosted"}, seeds=[0], progress=False
        ... )
        >>> list(report.methods)
        ['boosted']
    """
    chosen = cast("Mapping[str, MitigationMethod]", methods)
    scoring = Scoring(words, pope_rule, vqa_rule, judge, scorers or {})
    samples = {task: list(as_samples(dataset)) for task, dataset in data.items()}
    unknown = sorted(set(max_new_tokens or {}) - set(samples))
    if unknown:
        raise InputError(f"max_new_tokens= names {unknown}, and the tasks are {list(samples)}.")
    for task, of_task in samples.items():
        scoring.check(task, of_task)
    limits = {task: (max_new_tokens or {}).get(task, TASKS[task]) for task in samples}
    controlled = set(chosen)
    for task, of_task in samples.items():
        first, batch = next(batches(model, iter(of_task[:batch_size]), batch_size=batch_size, progress=False, desc=""))
        for name, method in chosen.items():
            if not method.check(model, first, batch, limits[task]):
                controlled.discard(name)
    draws = {name: seeds if name in controlled else () for name in chosen}
    clock = _Clock(model)
    texts: dict[tuple[str, int | None], dict[str, list[str]]] = {}
    keys: dict[str, list[str]] = {task: [] for task in samples}
    for task, of_task in samples.items():
        for chunk, batch in batches(
            model, iter(tuple(of_task)), batch_size=batch_size, progress=progress, desc=task, total=len(of_task)
        ):
            for run, answers in _answered(model, chunk, batch, chosen, draws, limits[task], clock):
                texts.setdefault(run, {}).setdefault(task, []).extend(answers)
            for sample in chunk:  # no picture is kept
                of_task[len(keys[task])] = _without_pictures(sample)
                keys[task].append(sample.key)
    plain = texts["plain", None]
    scored = {run: _scored(scoring, samples, by_task, plain) for run, by_task in texts.items()}
    controls = {name: tuple(scored[name, seed] for seed in seeds if (name, seed) in scored) for name in chosen}
    identity = run_identity(
        model, True, methods={name: str(method) for name, method in chosen.items()}, seeds=tuple(seeds), limits=limits,
        samples=keys,
    )  # fmt: skip
    return MitigationReport(
        scored["plain", None], {name: scored[name, None] for name in chosen}, {n: c for n, c in controls.items() if c},
        clock.totals, {name: str(method) for name, method in chosen.items()}, identity,
    )  # fmt: skip


class _Clock:
    """New tokens and seconds, by run."""

    def __init__(self, model: HookedMultimodal):
        self.model = model
        self.totals: dict[str, tuple[float, float]] = {}

    def answers(self, run: str | None, force: Force, batch: MultimodalBatch, limit: int) -> list[str]:
        """The answers of a batch with something in force; their time counts for a run, if it is one."""
        start = time.perf_counter()
        with self.model.intervene(*force.interventions):
            trace = self.model.trace_generation(
                batch, names="hook_logits", max_new_tokens=limit, contrast=force.contrast
            )
        if run is not None:
            count, seconds = self.totals.get(run, (0.0, 0.0))
            self.totals[run] = count + float(trace.lengths.sum()), seconds + time.perf_counter() - start
        return list(trace.text)


def _answered(
    model: HookedMultimodal,
    samples: Sequence[Sample],
    batch: MultimodalBatch,
    methods: Mapping[str, MitigationMethod],
    draws: Mapping[str, Sequence[int]],
    limit: int,
    clock: _Clock,
) -> list[tuple[tuple[str, int | None], list[str]]]:
    """The answers of one batch: plain, with each method, and with its controls."""
    answers = partial(clock.answers, batch=batch, limit=limit)
    found: list[tuple[tuple[str, int | None], list[str]]] = [(("plain", None), answers("plain", Force()))]
    for name, method in methods.items():
        start = time.perf_counter()
        force = method.force(model, samples, batch)
        seconds = time.perf_counter() - start  # what has to be run before answering is part of the cost
        found.append(((name, None), answers(name, force)))
        count, total = clock.totals[name]
        clock.totals[name] = count, total + seconds
        for seed in draws[name]:
            control = force.control(model, seed)
            if control is not None:
                found.append(((name, seed), answers(None, control)))
    return found


def _scored(
    scoring: Scoring,
    samples: Mapping[str, Sequence[Sample]],
    texts: Mapping[str, Sequence[str]],
    plain: Mapping[str, Sequence[str]],
) -> TaskScores:
    return {
        task: {score.name: score for score in scoring.scores(task, of_task, texts[task], plain[task])}
        for task, of_task in samples.items()
    }


def _without_pictures(sample: Sample) -> Sample:
    """The sample without its pictures, but with the identifier of what it shows."""
    return replace(sample, images=(), image_id=sample.shown, name=sample.name or sample.key)
