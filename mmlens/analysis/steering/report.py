"""Judging steering: every answer before and after, on what should change and on what should not, beside random vectors."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

import torch

from mmlens.analysis.samples import Dataset, Sample, as_samples, batches
from mmlens.analysis.steering.answers import answers
from mmlens.analysis.steering.outcome import SteeringCase, SteeringFacts, SteeringReport
from mmlens.core.answer_text import is_answer
from mmlens.core.contract import checked
from mmlens.core.errors import InputError
from mmlens.core.kinds import Count, Distinct, Seed, Text
from mmlens.interventions.steering import ProjectOut, Steer
from mmlens.models.hooked import HookedMultimodal
from mmlens.models.runs import Intervention

Interventions: TypeAlias = Intervention | Mapping[str, Intervention | Sequence[Intervention]]
#: From a sample and an answer to a score between 0 and 1.
Score: TypeAlias = Callable[[Sample, str], float]


@checked
@torch.no_grad()
def steering_report(
    model: HookedMultimodal,
    interventions: Interventions,
    dataset: Dataset | Mapping[str, Dataset],
    *,
    score: Score | None = None,
    seeds: Distinct[Seed] = (0,),
    prompt: Text | None = None,
    max_new_tokens: Count = 30,
    batch_size: Count = 16,
    progress: bool = True,
) -> SteeringReport:
    """Answer prompts with and without interventions, and with random vectors of equal norm in their place.

    Args:
        model: the hooked model.
        interventions: one, or several by name; each an intervention or a list of them, which act together.
        dataset: the prompts; or several sets by name, e.g. by type of answer. Samples with an `answer` are scored.
        score: of an answer to a sample; by default 1 where it is the sample's `answer`, or one of several, up to case and
            punctuation (`mm.scorers.normalised`), else 0. With several people's answers by VQAv2's rules:
            `lambda sample, text: mm.steering.vqa_accuracy([text], [people[sample.name]])[0]`.
        seeds: of the random controls of each `Steer` and `ProjectOut`, with the same strength, positions and gate.
        prompt: asked where a sample brings none.
        max_new_tokens: upper bound on an answer's tokens.
        batch_size: prompts at a time.
        progress: show a progress bar per set.

    Returns:
        The report: prints a table; `.counts(...)`, `.became(...)`, `.said(...)`, `.score_change(...)`, `.diversity(...)`,
        `.beyond_control(...)`, `.to_frame()` with every answer, `.plot()`.

    Raises:
        InputError: for no interventions, an empty set, or an intervention that cannot happen; before any forward pass.

    Example:
        >>> import mmlens as mm
        >>> vector = mm.steering.SteeringVector(500 * model.W_U[:, model.to_single_token("no")], "blocks.5.hook_resid_post")
        >>> steer = mm.Steer(vector, positions=mm.positions.last | mm.positions.generated)
        >>> asked = [mm.Sample((scene.image,), "is there a person", answer="yes")]
        >>> report = mm.steering.steering_report(model, steer, asked, max_new_tokens=1, progress=False)
        >>> report.became("steered", "yes", "no").mean, report.became("steered, random 0", "yes", "no").mean
        (1.0, 0.0)

    Source: the evaluation of Khayatan et al., "Analyzing Fine-tuning Representation Shift for Multimodal LLMs Steering
    Alignment", ICCV 2025 (https://arxiv.org/abs/2501.03012): counts of answers and accuracy per answer type.
    *Departs:* every figure has an interval over pictures and a random control.
    """
    arms = _named(interventions)
    every = {key: value for name in arms for key, value in _with_controls(name, arms[name], seeds).items()}
    for _, interventions_of_arm in every.values():
        for intervention in interventions_of_arm:
            intervention.hooks(model)  # what cannot happen is refused before anything runs
    sets = dataset if isinstance(dataset, Mapping) else {"answers": dataset}
    data = {name: list(as_samples(samples_of_set, prompt=prompt)) for name, samples_of_set in sets.items()}
    empty = [name for name, samples_of_set in data.items() if not samples_of_set]
    if empty or not data:
        raise InputError(f"The sets of prompts {empty or 'given'} are empty.")
    cases: dict[str, list[SteeringCase]] = {name: [] for name in every}
    token_counts = dict.fromkeys(every, 0)
    for group, samples in data.items():
        for samples_of_set, batch in batches(model, samples, batch_size=batch_size, progress=progress, desc=group):
            before = answers(model, batch, (), max_new_tokens=max_new_tokens)
            for name, (_, interventions_of_arm) in every.items():
                after = answers(model, batch, interventions_of_arm, max_new_tokens=max_new_tokens)
                token_counts[name] += sum(counter.touched.tokens for counter in _counting(interventions_of_arm))
                cases[name] += map(_case(name, group, score or _exact), samples_of_set, before, after)
    facts = tuple(
        SteeringFacts(
            name,
            of,
            ", ".join(map(repr, interventions_of_arm)),
            token_counts[name] if _counting(interventions_of_arm) else None,
        )
        for name, (of, interventions_of_arm) in every.items()
    )
    return SteeringReport(facts, tuple(case for samples_of_set in cases.values() for case in samples_of_set))


def _named(interventions: Interventions) -> dict[str, tuple[Intervention, ...]]:
    """Interventions by name, each as several that act together."""
    by_name = interventions if isinstance(interventions, Mapping) else {"steered": interventions}
    arms = {name: tuple(arm) if isinstance(arm, Sequence) else (arm,) for name, arm in by_name.items()}
    empty = [name for name, arm_interventions in arms.items() if not arm_interventions]
    if empty or not arms:
        raise InputError(f"No interventions were given to report on{f' under {empty}' if empty else ''}.")
    return arms


_Acting: TypeAlias = tuple[str | None, tuple[Intervention, ...]]


def _with_controls(name: str, arm: tuple[Intervention, ...], seeds: Sequence[int]) -> dict[str, _Acting]:
    """An intervention, and the same with random vectors; one without vectors has no control."""
    arms: dict[str, _Acting] = {name: (None, arm)}
    if _counting(arm):
        for seed in seeds:
            arms[f"{name}, random {seed}"] = (name, tuple(_randomised(intervention, seed) for intervention in arm))
    return arms


def _randomised(intervention: Intervention, seed: int) -> Intervention:
    if not isinstance(intervention, Steer | ProjectOut):
        return intervention
    return replace(intervention, vector=intervention.vector.random(seed=seed))


def _counting(arm: Sequence[Intervention]) -> list[Steer | ProjectOut]:
    """Those that have a vector and count what they change."""
    return [intervention for intervention in arm if isinstance(intervention, Steer | ProjectOut)]


def _exact(sample: Sample, answer: str) -> float:
    return 0.0 if sample.answer is None else float(is_answer(answer, sample.answer))


def _case(name: str, group: str, score: Score) -> Callable[[Sample, str, str], SteeringCase]:
    def case(sample: Sample, before: str, after: str) -> SteeringCase:
        has_score = score is not _exact or sample.answer is not None
        scores = (float(score(sample, before)), float(score(sample, after))) if has_score else None
        return SteeringCase(name, group, sample.shown, sample.prompt, sample.answer, before, after, scores)

    return case
