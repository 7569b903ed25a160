"""Judging steering: every answer before and after, on what should change and on what should not, beside three controls."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, cast

import torch

from mmlens.analysis.samples.chunks import DataChunk, chunks_of, shared_chunks
from mmlens.analysis.samples.sample import Dataset, Sample, length_of
from mmlens.analysis.steering.answers import answers
from mmlens.analysis.steering.cases import SteeringCase, SteeringFacts
from mmlens.analysis.steering.controls import ControlKind, StateDraws, controls_of, token_weights, word_weights
from mmlens.analysis.steering.outcome import SteeringReport
from mmlens.core.answer_text import is_answer
from mmlens.core.checkpoint import Checkpoint
from mmlens.core.contract import checked
from mmlens.core.errors import InputError
from mmlens.core.kinds import Count, PathLike, Seed, Several, SeveralDistinct, Text
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
    seeds: SeveralDistinct[Seed] = (0,),
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
        dataset: the prompts; or several sets by name, e.g. by type of answer. Samples with an `answer` are scored. A set is read
            once per intervention and control, a batch in memory at a time.
        score: of an answer to a sample; by default 1 where it is the sample's `answer`, or one of several, up to case and
            punctuation (`mm.scorers.normalised`), else 0. With several people's answers by VQAv2's rules:
            `lambda sample, text: mm.scorers.vqa_score(text, sample.references)`.
        words: the words that steering leads from and to, as pairs `("yes", "no")`, each a word or several; one pair, or one by
            name of the intervention. By default those that its answers lose and gain, by how often: known only from the answers.
        controls: kinds of control of each `Steer` and `ProjectOut`, with the same strength, positions and gate; `()` for none.
        seeds: of the random ones; `controls=("words",)` has none.
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
    sets = _readable(dataset if isinstance(dataset, Mapping) else {"answers": dataset})
    results = Checkpoint(
        checkpoint,
        "steering report",
        lambda exact: run_identity(
            model,
            exact,
            interventions_of_the_report=arms,
            score=score,
            words=words,
            settings=[list(sets), prompt, list(controls), list(seeds), max_new_tokens, batch_size, contrast],
        ),
    )
    run = _Run(model, sets, prompt, batch_size, score or _exact, max_new_tokens, contrast, results, progress)
    before = run.answered("answers", ())["texts"]
    vector_arms = {name: arm for name, arm in arms.items() if _counting(arm)}
    points = [_points(model, intervention)[0] for arm in vector_arms.values() for intervention in _counting(arm)]
    draws = StateDraws(model, points if "covariance" in controls else (), seeds)
    if points and "covariance" in controls:
        run.draw(draws)
    facts = []
    for name, arm in arms.items():
        facts.append(run.facts(SteeringFacts(name, None, "", None, words=pairs[name]), arm))
        if name not in vector_arms:
            continue
        after = results.parts["passes"][f"answers, {name}"]["texts"]
        tokens = weights[name] if name in weights else token_weights(model, before, after)
        for kind, seed, control in _controls(model, arm, controls, seeds, draws, tokens):
            label = f"{name}, words" if kind == "words" else f"{name}, {kind} {seed}"
            facts.append(run.facts(SteeringFacts(label, name, "", None, kind=kind, words=pairs[name]), control))
    return SteeringReport(
        tuple(facts), tuple(case for fact in facts for case in run.cases(fact.name)), results.identity
    )


@dataclass(frozen=True)
class _Run:
    """The passes of a report over its sets of prompts; of each pass only texts and numbers stay, in the checkpoint."""

    model: WritingModel
    sets: Mapping[str, Dataset]
    prompt: str | None
    batch_size: int
    score: Score
    max_new_tokens: int
    contrast: ContrastChoice
    results: Checkpoint
    progress: bool

    def chunks(self, group: str) -> Iterator[DataChunk]:
        """The prompts of a set, read anew."""
        return chunks_of(self.model, self.sets[group], self.prompt, self.batch_size)

    def answered(self, desc: str, arm: tuple[Intervention, ...]) -> dict[str, Any]:
        """The answers to all prompts, their scores, and how many positions were changed; of a pass without interventions also
        what was asked of whom."""
        empty = {"texts": [], "scores": [], "touched": 0} | ({} if arm else {"samples": []})
        part: dict[str, Any] = self.results.parts.setdefault("passes", {}).setdefault(desc, empty)

        def work(chunk: DataChunk) -> tuple[list[str], int]:
            texts = answers(self.model, chunk.batch, arm, max_new_tokens=self.max_new_tokens, contrast=self.contrast)
            return texts, sum(counter.touched.tokens for counter in _counting(arm))

        for group, data in self.sets.items():
            for chunk, (texts, n_positions) in shared_chunks(
                self.model,
                self.chunks(group),
                work,
                checkpoint=self.results,
                desc=f"{desc}, {group}" if len(self.sets) > 1 else desc,
                total=length_of(data),
                progress=self.progress,
            ):
                part["texts"] += texts
                part["scores"] += map(self._scored, chunk.samples, texts)
                part["touched"] += n_positions
                if not arm:
                    part["samples"] += [[group, sample.shown, sample.prompt, sample.answer] for sample in chunk.samples]
        return part

    def facts(self, fact: SteeringFacts, arm: tuple[Intervention, ...]) -> SteeringFacts:
        """Answer under an intervention; what is known of it, with how it prints itself and how many positions it changed."""
        n_positions = self.answered(f"answers, {fact.name}", arm)["touched"]
        return replace(fact, described=", ".join(map(repr, arm)), touched=n_positions if _counting(arm) else None)

    def _scored(self, sample: Sample, answer: str) -> float | None:
        has_truth = self.score is not _exact or sample.answer is not None
        return float(self.score(sample, answer)) if has_truth else None

    def draw(self, draws: StateDraws) -> None:
        """Take the states of all prompts into random directions."""
        for group in self.sets:
            for chunk in self.chunks(group):
                self.model.run_with_hooks(chunk.batch, fwd_hooks=draws.hooks(chunk.batch))

    def cases(self, name: str) -> Iterator[SteeringCase]:
        """What an intervention did to every prompt."""
        before, after = (self.results.parts["passes"][desc] for desc in ("answers", f"answers, {name}"))
        for (group, picture, prompt, truth), *texts, old, new in zip(
            before["samples"], before["texts"], after["texts"], before["scores"], after["scores"], strict=True
        ):
            truths = tuple(truth) if isinstance(truth, list) else truth
            scores = None if old is None or new is None else (old, new)
            yield SteeringCase(name, group, picture, prompt, truths, texts[0], texts[1], scores)


def _readable(sets: Mapping[str, Dataset]) -> dict[str, Dataset]:
    """Sets that can be read once per intervention: those that can be read only once are put into lists."""
    sets_again = {name: list(data) if isinstance(data, Iterator) else data for name, data in sets.items()}
    empty = [name for name, data in sets_again.items() if next(iter(data), None) is None]
    if empty or not sets_again:
        raise InputError(f"The sets of prompts {empty or 'given'} are empty.")
    return sets_again


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
            model, other.common_vector, _points(model, other), kinds, seeds=seeds, draws=draws, weights=weights
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
