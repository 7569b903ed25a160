"""Layer and strength of each way to steer, chosen on validation scenes."""

from collections import Counter
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product

import mmlens as mm
from benchmarks.steering_tasks import Layer, Task, validation
from mmlens.analysis.steering.cases import SteeringCase
from mmlens.core.answer_text import says
from mmlens.core.rules import Rule

METHODS = ("coarse", "coarse, gated", "fine, gated")
_STRENGTHS = {"coarse": (0.5, 0.55, 0.6, 0.7, 1.0, 1.5, 1.7), "coarse, gated": (1.0, 1.5), "fine, gated": (1.0,)}
#: Share of answers that has to flip before what is lost decides.
_ENOUGH = 0.9


@dataclass(frozen=True)
class Means:
    """What steering at one layer is made of.

    Attributes:
        task: what is to become what.
        layer: its states and concepts.
    """

    task: Task
    layer: Layer

    @property
    def bank(self) -> mm.concepts.ConceptBank:
        """Concepts of all states."""
        return self.layer.bank

    @cached_property
    def coarse(self) -> mm.steering.SteeringVector:
        """From the mean of the source's states to that of the target's."""
        states = self.layer.states
        return mm.steering_vector(states.with_token(self.task.sources), states.with_token(self.task.targets))

    @cached_property
    def active(self) -> list[int]:
        """Concepts most of whose states predict a source word."""
        words: dict[int, Counter[bool]] = {}
        for concept, word in zip(self.bank.dominant().tolist(), self.layer.states.tokens, strict=True):
            words.setdefault(concept, Counter())[word in self.task.sources] += 1
        return [concept for concept, counts in sorted(words.items()) if counts[True] > counts[False]]

    def steers(self, model: mm.HookedMultimodal, method: str, alpha: float, positions: Rule) -> list[mm.Steer]:
        """The steering of a method; none where no concept stands for the source."""
        steer = mm.Steer(self.coarse, alpha, positions=positions)
        if method == "coarse":
            return [steer]
        if not self.active:
            return []
        if method == "coarse, gated":
            return [replace(steer, gate=mm.steering.ActiveConcept(self.bank, self.active))]
        # per active concept the one fine vector that points most nearly where the coarse one does
        nearest = {}
        for concept in self.active:
            vectors = mm.steering.concept_steering_vectors(self.bank, sources=[concept])
            (pair,) = mm.steering.select_vectors(model, vectors, method=mm.steering.Proximity(self.coarse), k=1).chosen
            nearest[pair] = vectors[pair]
        return [
            replace(steer, vector=vector, gate=mm.steering.ActiveConcept(self.bank, pair[0]))
            for pair, vector in nearest.items()
        ]


@dataclass(frozen=True)
class Chosen:
    """What validation chose for a method.

    Attributes:
        method: see `METHODS`.
        at: hook name.
        alpha: strength.
        positions: where it acts.
        steers: the steering.
        flipped, lost: on the validation scenes: share that became what is wanted, and score lost elsewhere.
    """

    method: str
    at: str
    alpha: float
    positions: Rule
    steers: list[mm.Steer]
    flipped: float
    lost: float

    @property
    def rank(self) -> tuple[bool, float]:
        """Enough comes first, then what is lost; short of enough, what flips minus what is lost."""
        enough = self.flipped >= _ENOUGH
        return enough, -self.lost if enough else self.flipped - self.lost


def _positions(task: Task, method: str) -> tuple[Rule, ...]:
    """Where a method may act: gates look for the state that predicts a word, and captions say theirs late."""
    answering = mm.positions.last | mm.positions.generated
    return (answering, mm.positions.prompt) if method == "coarse" and task.prompt is not None else (answering,)


def choose(model: mm.HookedMultimodal, task: Task, layers: dict[str, Layer], *, count: int) -> dict[str, Chosen]:
    """Layer, strength and positions of each method: the least lost where enough flips, on validation scenes."""
    means = {at: Means(task, layer) for at, layer in layers.items()}
    tried = {
        (method, at, alpha, positions): steers
        for method, at in product(METHODS, means)
        for alpha, positions in product(_STRENGTHS[method], _positions(task, method))
        if (steers := means[at].steers(model, method, alpha, positions))
    }
    names = {
        f"{method} at {at}, alpha {alpha:g}, {where}": (method, at, alpha, where) for method, at, alpha, where in tried
    }
    report = mm.steering.steering_report(
        model,
        {name: tried[key] for name, key in names.items()},
        validation(task, count),
        controls=(),
        max_new_tokens=20 if task.prompt is None else 9,
        batch_size=24,
    )
    best: dict[str, Chosen] = {}
    for name, key in names.items():
        method = key[0]
        flipped, lost = flips(task, report, name), losses(report, name)
        found = Chosen(*key, tried[key], flipped, lost)
        if method not in best or found.rank > best[method].rank:
            best[method] = found
    return best


def flips(task: Task, report: mm.steering.SteeringReport, name: str) -> float:
    """Share of the answers to be changed that became what is wanted."""
    return report.mean(name, lambda case: became(task, case), "to change").mean


def losses(report: mm.steering.SteeringReport, name: str) -> float:
    """Score that is lost on the prompts that should stay."""
    changes = [case.score[0] - case.score[1] for case in report.of(name) if case.score and case.group != "to change"]
    return sum(changes) / max(len(changes), 1)


def became(task: Task, case: SteeringCase) -> float | None:
    """Whether an answer that was to change says what is wanted; None for one that did not say the source before."""
    if not says(case.before, task.said) or says(case.before, task.wanted):
        return None
    kept = task.name.startswith("style") or not says(case.after, task.said)
    return float(says(case.after, task.wanted) and kept)
