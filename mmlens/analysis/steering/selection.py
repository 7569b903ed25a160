"""Which of many steering vectors to use: by what they do to a model's answers, or by where they point.

By effect, the gap rule:

    n_a = (how often answer a is given with the vector) - (how often without)      the 5 answers that grow most are kept
    two groups of them, by one-dimensional 2-means; the main answers are the group of the largest
    gap = (smallest of the main ones) - (largest of the others)
    a vector is kept if it has at most `n_targets` main answers; the largest gaps first, each main answers once

Source: Khayatan et al., "Analyzing Fine-tuning Representation Shift for Multimodal LLMs Steering Alignment", ICCV 2025
(https://arxiv.org/abs/2501.03012), section on steering; the rule is that of its published code.
Departs: the two groups are the best split of the sorted numbers, which is what 2-means looks for, and needs no seed. A vector
with which one answer grows alone has that one as its main answer, and its growth as gap. Answers that do not grow are none.
"""

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import torch

from mmlens.analysis.samples import Dataset, batches
from mmlens.core.errors import InputError
from mmlens.inputs.batch import MultimodalBatch
from mmlens.interventions.steering_vector import SteeringVector
from mmlens.models.hooked import HookedMultimodal
from mmlens.models.runs import Intervention

if TYPE_CHECKING:
    import pandas as pd

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Effect:
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


@dataclass(frozen=True)
class Selection:
    """Interventions, ordered by how clearly they lead to few answers.

    Attributes:
        effects: of all, the largest gap first.
        chosen: the keys that the rule keeps, best first.
        baseline: how often each answer is given without any.
        samples: how many answers there are.
    """

    effects: tuple[Effect, ...] = field(repr=False)
    chosen: tuple[Hashable, ...]
    baseline: Mapping[str, int] = field(repr=False)
    samples: int

    def __repr__(self) -> str:
        by_key = {effect.key: effect for effect in self.effects}
        lines = [f"Selection({len(self.chosen)} of {len(self.effects)} interventions, over {self.samples} answers)"]
        lines += [f"  {key}: {', '.join(by_key[key].main)} (gap {by_key[key].gap:g})" for key in self.chosen]
        return "\n".join(lines)

    def leading_to(self, *answers: str) -> tuple[Hashable, ...]:
        """The keys of all interventions whose main answers are exactly these, best first."""
        wanted = set(answers)
        return tuple(effect.key for effect in self.effects if set(effect.main) == wanted)

    def to_frame(self) -> "pd.DataFrame":
        """A row per intervention: its main answers, the gap, the answers that grow, and whether it was kept."""
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


@torch.no_grad()
def select_by_effect(
    model: HookedMultimodal,
    interventions: Mapping[Key, Intervention],
    dataset: Dataset,
    *,
    n_targets: int = 1,
    k: int = 5,
    top: int = 5,
    prompt: str | None = None,
    max_new_tokens: int = 5,
    batch_size: int = 16,
    progress: bool = True,
) -> Selection:
    """Answer a validation set with each of many interventions, and keep those that make few answers grow most.

    Args:
        model: the hooked model.
        interventions: by key, e.g. `{pair: mm.Steer(vector, positions="last_prompt") for pair, vector in vectors.items()}`.
        dataset: the validation set; see `mmlens.analysis.samples.Dataset`.
        n_targets: how many main answers a vector may have.
        k: how many are kept.
        top: how many growing answers are compared.
        prompt: asked where a sample brings none.
        max_new_tokens: upper bound on an answer's tokens.
        batch_size: samples at a time.
        progress: show a progress bar.

    Returns:
        The selection: `.chosen`, and `.effects` of all.

    Raises:
        InputError: for no interventions or samples, or numbers below 1.

    Example:
        >>> import mmlens as mm
        >>> words = {word: model.W_U[:, model.to_single_token(word)] for word in ("yes", "red")}
        >>> vectors = {word: mm.SteeringVector(500 * column, "blocks.5.hook_resid_post") for word, column in words.items()}
        >>> steers = {word: mm.Steer(vector, positions="last_prompt") for word, vector in vectors.items()}
        >>> data = [(scene.image, "where is this"), (scene.image, "how many objects are there")]
        >>> mm.select_by_effect(model, steers, data, max_new_tokens=1, progress=False).chosen
        ('yes', 'red')

    Source, *Departs*: see `mmlens.analysis.steering.selection`.
    """
    if not interventions:
        raise InputError("There are no interventions to select from.")
    for name, value in (("n_targets", n_targets), ("k", k), ("top", top), ("max_new_tokens", max_new_tokens)):
        if value < 1:
            raise InputError(f"{name}={value} must be at least 1.")
    for intervention in interventions.values():
        intervention.hooks(model)  # what cannot happen is refused before anything runs
    baseline: Counter[str] = Counter()
    counts: dict[Hashable, Counter[str]] = {key: Counter() for key in interventions}
    for _, batch in batches(
        model, dataset, batch_size=batch_size, prompt=prompt, progress=progress, desc="select vectors"
    ):
        baseline.update(answers(model, batch, (), max_new_tokens=max_new_tokens))
        for key, intervention in interventions.items():
            counts[key].update(answers(model, batch, (intervention,), max_new_tokens=max_new_tokens))
    if not baseline:
        raise InputError("The dataset holds no samples.")
    effects = sorted((_effect(key, counts[key], baseline, top) for key in counts), key=lambda e: -e.gap)
    chosen: dict[frozenset[str], Hashable] = {}
    for effect in effects:
        if effect.main and len(effect.main) <= n_targets:
            chosen.setdefault(frozenset(effect.main), effect.key)
    return Selection(tuple(effects), tuple(chosen.values())[:k], dict(baseline), sum(baseline.values()))


def answers(
    model: HookedMultimodal, batch: MultimodalBatch, interventions: Sequence[Intervention], *, max_new_tokens: int
) -> list[str]:
    """What a model answers with interventions in force, one text per sample."""
    with model.intervene(*interventions):
        return model.trace_generation(batch, names="hook_logits", max_new_tokens=max_new_tokens).text


def _effect(key: Hashable, counts: Counter[str], baseline: Counter[str], top: int) -> Effect:
    grown = {answer: counts[answer] - baseline[answer] for answer in counts}
    growing = sorted(((a, n) for a, n in grown.items() if n > 0), key=lambda pair: (-pair[1], pair[0]))[:top]
    main, gap = gap_rule([count for _, count in growing])
    return Effect(key, tuple(growing), tuple(answer for answer, _ in growing[:main]), gap)


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


def select_by_proximity(
    vectors: Mapping[Key, SteeringVector], reference: SteeringVector, *, k: int = 5
) -> dict[Key, SteeringVector]:
    """The vectors that point most nearly where another one does.

    Args:
        vectors: by key, e.g. the fine vectors of a bank.
        reference: where they should lead: the coarse vector from source to target, or a target word's direction.
        k: how many.

    Returns:
        The k of largest cosine with the reference, nearest first.

    Raises:
        InputError: for no vectors, `k` below 1, or vectors of another point.

    Example:
        >>> import mmlens as mm
        >>> vectors = {n: mm.SteeringVector(model.W_U[:, n], "blocks.4.hook_resid_post") for n in range(9)}
        >>> list(mm.select_by_proximity(vectors, vectors[3], k=1))
        [3]

    Source: Khayatan et al., as above. *Departs:* the paper compares with the target concept; here with a direction, so that a
    component that all states share does not make all of them look alike.
    """
    if k < 1 or not vectors:
        raise InputError(f"Choose k >= 1 of one or more vectors; k={k} of {len(vectors)} were asked for.")
    elsewhere = sorted({vector.at for vector in vectors.values()} - {reference.at})
    if elsewhere:
        raise InputError(f"The reference is a direction at {reference.at}, but vectors are of {', '.join(elsewhere)}.")
    cosines = {
        key: float(torch.cosine_similarity(vector.direction, reference.direction, dim=0))
        for key, vector in vectors.items()
    }
    nearest = sorted(cosines, key=lambda key: -cosines[key])[:k]
    return {key: vectors[key] for key in nearest}
