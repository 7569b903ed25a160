"""Judging steering: every answer before and after, on what should change and on what should not, beside three controls."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias, cast

import torch

from mmlens.analysis.data_chunks import DataChunk, chunks_of, shared_chunks
from mmlens.analysis.samples import Dataset, Sample, as_samples
from mmlens.analysis.steering.answers import answers
from mmlens.analysis.steering.controls import ControlKind, StateDraws, controls_of, token_weights, word_weights
from mmlens.analysis.steering.outcome import SteeringCase, SteeringFacts, SteeringReport
from mmlens.core.answer_text import is_answer
from mmlens.core.checkpoint import Checkpoint
from mmlens.core.contract import checked
from mmlens.core.errors import InputError
from mmlens.core.kinds import Count, Distinct, PathLike, Seed, Several, SeveralDistinct, Text
from mmlens.interventions.steering import ProjectOut, Steer
from mmlens.models.contrast.methods import ContrastChoice
from mmlens.models.hooked import HookedMultimodal, WritingModel
from mmlens.models.identity import run_identity
from mmlens.models.runs import Intervention

Interventions: TypeAlias = Intervention | Mapping[str, Intervention | Sequence[Intervention]]
#: From a sample and an answer to a score between 0 and 1.
Score: TypeAlias = Callable[[Sample, str], float]
#: The words that steering leads from, and those that it leads to.
Words: TypeAlias = tuple[Text | Several[Text], Text | Several[Text]]


@checked
@torch.no_grad()
def steering_report(
    model: WritingModel,
    interventions: Interventions,
    dataset: Dataset | Mapping[str, Dataset],
    *,
    score: Score | None = None,
    words: Words | Mapping[str, Words] | None = None,
    controls: SeveralDistinct[ControlKind] | tuple[()] = ("words", "covariance", "isotropic"),
    seeds: Distinct[Seed] = (0,),
    prompt: Text | None = None,
    max_new_tokens: Count = 30,
    contrast: ContrastChoice = None,
    batch_size: Count = 16,
    checkpoint: PathLike | None = None,
    progress: bool = True,
) -> SteeringReport:
    """Answer prompts with and without interventions, and with other vectors of equal norm in their place.

    The controls are the unembedding difference, which only writes the words, a random direction with the covariance of the
    states at the prompts' last position, and one with none (see `mmlens.analysis.steering.controls`). A vector is more than
    word writing only where it beats the first: `.verdict(name)`.

    Args:
        model: the hooked model.
        interventions: one, or several by name; each an intervention or a list of them, which act together.
        dataset: the prompts; or several sets by name, e.g. by type of answer. Samples with an `answer` are scored.
        score: of an answer to a sample; by default 1 where it is the sample's `answer`, or one of several, up to case and
            punctuation (`mm.scorers.normalised`), else 0. With several people's answers by VQAv2's rules:
            `lambda sample, text: mm.scorers.vqa_score(text, sample.references)`.
        words: the words that steering leads from and to, as pairs `("yes", "no")`, each a word or several; one pair, or one by
            name of the intervention. By default those that its answers lose and gain, by how often: known only from the answers.
        controls: kinds of control of each `Steer` and `ProjectOut`, with the same strength, positions and gate; `()` for none.
        seeds: of the random ones.
        prompt: asked where a sample brings none.
        max_new_tokens: upper bound on an answer's tokens.
        contrast: contrastive decoding of every answer, as for `model.generate`; interventions act on the prompt's own run.
        batch_size: prompts at a time.
        checkpoint: a file that keeps the answers; the same call goes on from it.
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
        >>> report.became("steered", "yes", "no").mean, report.became("steered, isotropic 0", "yes", "no").mean
        (1.0, 0.0)
        >>> report.became("steered, words", "yes", "no").mean, report.verdict("steered")
        (1.0, 'no more than the words')

    Source: the evaluation of Khayatan et al., "Analyzing Fine-tuning Representation Shift for Multimodal LLMs Steering
    Alignment", ICCV 2025 (https://arxiv.org/abs/2501.03012): counts of answers and accuracy per answer type.
    *Departs:* every figure has an interval over pictures, and controls.
    """
    arms = _named(interventions)
    for intervention in (intervention for arm in arms.values() for intervention in arm):
        intervention.hooks(model)  # what cannot happen is refused before anything runs
    pairs = _pairs(words, arms)
    weights = {name: word_weights(model, *pair) for name, pair in pairs.items() if pair}
    sets = dataset if isinstance(dataset, Mapping) else {"answers": dataset}
    data = {name: list(as_samples(samples_of_set, prompt=prompt)) for name, samples_of_set in sets.items()}
    empty = [name for name, samples_of_set in data.items() if not samples_of_set]
    if empty or not data:
        raise InputError(f"The sets of prompts {empty or 'given'} are empty.")
    chunks = [chunk for samples in data.values() for chunk in chunks_of(model, samples, None, batch_size)]
    groups = [group for group, samples in data.items() for _ in range(0, len(samples), batch_size)]
    results = Checkpoint(
        checkpoint,
        "steering report",
        lambda exact: run_identity(
            model,
            exact,
            interventions_of_the_report=arms,
            score=score,
            words=words,
            settings=[list(sets), list(controls), list(seeds), max_new_tokens, batch_size, contrast],
        ),
    )
    total = sum(map(len, data.values()))
    steered = {name: arm for name, arm in arms.items() if _counting(arm)}
    points = [_points(model, intervention)[0] for arm in steered.values() for intervention in _counting(arm)]
    draws = StateDraws(model, points if "covariance" in controls else (), seeds)
    before: list[list[str]] = results.parts.setdefault("before", [])

    def answered(desc: str, arm: tuple[Intervention, ...]) -> Iterator[tuple[list[str], int]]:
        """The answers to every batch, and how many positions were changed."""

        def work(chunk: DataChunk) -> tuple[list[str], int]:
            texts = answers(model, chunk.batch, arm, max_new_tokens=max_new_tokens, contrast=contrast)
            return texts, sum(counter.touched.tokens for counter in _counting(arm))

        for _, found in shared_chunks(
            model, chunks, work, checkpoint=results, desc=desc, total=total, progress=progress
        ):
            yield found

    for texts, _ in answered("answers", ()):
        before.append(texts)
    for chunk in chunks:
        if hooks := draws.hooks(chunk.batch):
            model.run_with_hooks(chunk.batch, fwd_hooks=hooks)
    facts: list[SteeringFacts] = []

    def run(fact: SteeringFacts, arm: tuple[Intervention, ...]) -> list[str]:
        finished = results.parts.setdefault("after", {}).setdefault(fact.name, {"texts": [], "touched": 0})
        for texts, touched in answered(f"answers, {fact.name}", arm):
            finished["texts"].append(texts)
            finished["touched"] += touched
        count = finished["touched"] if _counting(arm) else None
        facts.append(replace(fact, described=", ".join(map(repr, arm)), touched=count))
        return [text for texts in finished["texts"] for text in texts]

    for name, arm in arms.items():
        after = run(SteeringFacts(name, None, "", None, words=pairs[name]), arm)
        if name not in steered:
            continue
        said = (
            weights[name] if name in weights else token_weights(model, [text for old in before for text in old], after)
        )
        for kind, seed, control in _controls(model, arm, controls, seeds, draws, said):
            label = f"{name}, words" if kind == "words" else f"{name}, {kind} {seed}"
            run(SteeringFacts(label, name, "", None, kind=kind, words=pairs[name]), control)
    cases = [
        case
        for fact in facts
        for group, chunk, old, new in zip(
            groups, chunks, before, results.parts["after"][fact.name]["texts"], strict=True
        )
        for case in map(_case(fact.name, group, score or _exact), chunk.samples, old, new)
    ]
    return SteeringReport(tuple(facts), tuple(cases), results.identity)


#: The words that steering leads from and to.
_Pair: TypeAlias = tuple[tuple[str, ...], tuple[str, ...]]


def _pairs(
    words: Words | Mapping[str, Words] | None, arms: Mapping[str, Sequence[Intervention]]
) -> dict[str, _Pair | None]:
    """The words of each intervention, where they were given."""
    by_name = words if isinstance(words, Mapping) else {} if words is None else dict.fromkeys(arms, words)
    unknown = [name for name in by_name if name not in arms]
    if unknown:
        raise InputError(f"words are given for {unknown}, and the interventions are {list(arms)}.")
    pairs = {
        name: tuple((side,) if isinstance(side, str) else tuple(side) for side in pair)
        for name, pair in by_name.items()
    }
    return {name: cast("_Pair | None", pairs.get(name)) for name in arms}


def _points(model: HookedMultimodal, intervention: Steer | ProjectOut) -> list[str]:
    return list(intervention.points(model).names)


def _controls(
    model: HookedMultimodal,
    arm: tuple[Intervention, ...],
    kinds: Sequence[ControlKind],
    seeds: Sequence[int],
    draws: StateDraws,
    weights: torch.Tensor | None,
) -> Iterator[tuple[ControlKind, int, tuple[Intervention, ...]]]:
    """An intervention with other vectors, by kind and seed: those kinds that all its vectors have."""
    vectors = {
        number: controls_of(
            model, other.vector, _points(model, other), kinds, seeds=seeds, draws=draws, weights=weights
        )
        for number, other in enumerate(arm)
        if isinstance(other, Steer | ProjectOut)
    }
    first = next(iter(vectors.values()))
    for key in first:
        if all(key in controls for controls in vectors.values()):
            yield (
                *key,
                tuple(
                    replace(other, vector=vectors[number][key]) if isinstance(other, Steer | ProjectOut) else other
                    for number, other in enumerate(arm)
                ),
            )


def _named(interventions: Interventions) -> dict[str, tuple[Intervention, ...]]:
    """Interventions by name, each as several that act together."""
    by_name = interventions if isinstance(interventions, Mapping) else {"steered": interventions}
    arms = {name: tuple(arm) if isinstance(arm, Sequence) else (arm,) for name, arm in by_name.items()}
    empty = [name for name, arm_interventions in arms.items() if not arm_interventions]
    if empty or not arms:
        raise InputError(f"No interventions were given to report on{f' under {empty}' if empty else ''}.")
    return arms


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
