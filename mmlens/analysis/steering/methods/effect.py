"""Choosing by what interventions do to a model's answers: the gap rule."""

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from mmlens.analysis.samples.sample import batches
from mmlens.analysis.steering.answers import answers
from mmlens.analysis.steering.method import SELECTION_METHODS, Selection, SelectionMethod, Validation
from mmlens.core.errors import InputError
from mmlens.core.kinds import Count
from mmlens.models.hooked import HookedMultimodal
from mmlens.models.runs import Intervention

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class AnswerGrowth:
    """What one intervention does to the answers.

    Attributes:
        key: its name; (i, j) for the fine vectors of a bank.
        growing: the answers that grow most, with by how many, largest first.
        main: the main answers among them; none if nothing grows.
        gap: by how much the main answers grow more than the others, in answers.
    """

    key: Hashable
    growing: tuple[tuple[str, int], ...]
    main: tuple[str, ...]
    gap: float


@dataclass(frozen=True, repr=False)
class EffectSelection(Selection):
    """Interventions, ordered by how clearly they lead to few answers; scores are the gaps, in answers.

    Attributes:
        effects: of all, the largest gap first.
        baseline: how often each answer is given without any.
        samples: how many answers there are.
    """

    effects: tuple[AnswerGrowth, ...] = field(repr=False)
    baseline: Mapping[str, int] = field(repr=False)
    samples: int

    def __repr__(self) -> str:
        main = {effect.key: ", ".join(effect.main) for effect in self.effects}
        lines = [f"Selection({len(self.chosen)} of {len(self.effects)} interventions, over {self.samples} answers)"]
        return "\n".join([*lines, *(f"  {key}: {main[key]} (gap {self.scores[key]:g})" for key in self.chosen)])

    def leading_to(self, *answers: str) -> tuple[Hashable, ...]:
        """The keys of all interventions whose main answers are exactly these, best first."""
        return tuple(effect.key for effect in self.effects if set(effect.main) == set(answers))

    def to_frame(self) -> "pd.DataFrame":
        """A row per intervention: its main answers, the gap, the answers that grow, and whether it was chosen."""
        import pandas as pd

        rows = [
            {
                "key": effect.key,
                "main": ", ".join(effect.main),
                "gap": effect.gap,
                "growing": ", ".join(f"{answer} +{count}" for answer, count in effect.growing),
                "chosen": effect.key in self.chosen,
            }
            for effect in self.effects
        ]
        return pd.DataFrame(rows)


@SELECTION_METHODS.register("effect")
@dataclass(frozen=True)
class Effect(SelectionMethod):
    """The gap rule: every intervention answers a validation set, and those that make few answers grow are kept.

        growth of answer a = (how often a is given with the vector) - (how often without)
        two groups of the answers that grow most, by one-dimensional 2-means; the main answers are the group of the largest
        gap = (smallest growth of the main answers) - (largest of the others)

    A vector is kept if it has at most `n_targets` main answers; the largest gaps first, each set of main answers once.

    Attributes:
        n_targets: how many main answers a vector may have.
        n_growing: how many growing answers are compared.
        max_new_tokens: upper bound on an answer's tokens.

    Source: Khayatan et al., "Analyzing Fine-tuning Representation Shift for Multimodal LLMs Steering Alignment", ICCV 2025
    (https://arxiv.org/abs/2501.03012), section on steering; the rule is that of its published code.
    *Departs:* the two groups are the best split of the sorted numbers, which is what 2-means looks for, and needs no seed. A
    vector with which one answer grows alone has that one as its main answer, and its growth as gap. Answers that do not grow
    are none.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"dataset"})

    n_targets: Count = 1
    n_growing: Count = 5
    max_new_tokens: Count = 5

    def select(
        self, model: HookedMultimodal, interventions: Mapping[Any, Intervention], validation: Validation | None, k: int
    ) -> EffectSelection:
        baseline, counts = self._counts(model, interventions, validation)
        return self.choose(counts, baseline, k)

    def choose(self, counts: Mapping[Any, Counter[str]], baseline: Counter[str], k: int) -> EffectSelection:
        """Choose by answers that were given.

        Args:
            counts: how often each answer is given with each intervention, by its key.
            baseline: the same without any.
            k: how many are chosen at most.
        """
        effects = tuple(sorted((self._growth(key, counts[key], baseline) for key in counts), key=lambda e: -e.gap))
        selection: dict[frozenset[str], Hashable] = {}
        for effect in effects:
            if effect.main and len(effect.main) <= self.n_targets:
                selection.setdefault(frozenset(effect.main), effect.key)
        return EffectSelection(
            scores={effect.key: effect.gap for effect in effects},
            chosen=tuple(selection.values())[:k],
            method=str(self),
            effects=effects,
            baseline=dict(baseline),
            samples=sum(baseline.values()),
        )

    def _counts(
        self, model: HookedMultimodal, interventions: Mapping[Any, Intervention], validation: Validation | None
    ) -> tuple[Counter[str], dict[Hashable, Counter[str]]]:
        """How often each answer is given, without and with each of the interventions."""
        baseline: Counter[str] = Counter()
        counts: dict[Hashable, Counter[str]] = {key: Counter() for key in interventions}
        for _, batch in batches(model, desc="select vectors", **vars(validation)):
            baseline.update(answers(model, batch, (), max_new_tokens=self.max_new_tokens))
            for key, intervention in interventions.items():
                counts[key].update(answers(model, batch, (intervention,), max_new_tokens=self.max_new_tokens))
        if not baseline:
            raise InputError("The dataset holds no samples.")
        return baseline, counts

    def _growth(self, key: Hashable, counts: Counter[str], baseline: Counter[str]) -> AnswerGrowth:
        growth = {answer: counts[answer] - baseline[answer] for answer in counts}
        ranks = sorted(((a, n) for a, n in growth.items() if n > 0), key=lambda pair: (-pair[1], pair[0]))
        ranks = ranks[: self.n_growing]
        main, gap = gap_rule([count for _, count in ranks])
        return AnswerGrowth(key, tuple(ranks), tuple(answer for answer, _ in ranks[:main]), gap)


def gap_rule(growth: Sequence[float]) -> tuple[int, float]:
    """How many of the growing answers are the main ones, and how far ahead of the others they are.

    Args:
        growth: of each answer, positive, largest first.

    Returns:
        Their number, and the gap; for numbers that are all equal, all of them and no gap.

    Example:
        >>> gap_rule([40, 3, 2, 1]), gap_rule([69, 60, 4]), gap_rule([7]), gap_rule([2, 2])
        ((1, 37.0), (2, 56.0), (1, 7.0), (2, 0.0))
    """
    if len(growth) <= 1:
        return len(growth), float(sum(growth))
    values = torch.tensor(list(growth), dtype=torch.double)
    if bool((values == values[0]).all()):
        return len(values), 0.0

    def spread(part: torch.Tensor) -> float:
        return float((part - part.mean()).square().sum())

    best = min(range(1, len(values)), key=lambda cut: spread(values[:cut]) + spread(values[cut:]))
    return best, float(values[best - 1] - values[best])
