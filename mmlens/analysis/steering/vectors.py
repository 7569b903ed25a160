"""Steering vectors: from what states are to what they should be.

    coarse       s = mean(target) - mean(source)
    fine         s_ij = u_j - u_i                   (from concept i to concept j of one bank)
    contrastive  s = mean over samples of h(x, positive prompt) - h(x, negative prompt)

Source: Khayatan et al., "Analyzing Fine-tuning Representation Shift for Multimodal LLMs Steering Alignment", ICCV 2025
(https://arxiv.org/abs/2501.03012), section on steering: coarse and fine vectors, the sign of s_ij as printed there; the
published code stores u_i - u_j under the name "i to j". Contrastive prompts: Rimsky et al., "Steering Llama 2 via Contrastive
Activation Addition", ACL 2024 (https://arxiv.org/abs/2312.06681), section 3.
"""

import hashlib
from typing import TYPE_CHECKING, Any, cast

import torch
from jaxtyping import Float

from mmlens.analysis.samples.sample import Dataset, Sample, as_samples
from mmlens.analysis.steering.direction import DirectionChoice, DirectionMethod
from mmlens.analysis.steering.directions.mean_difference import MeanDifference
from mmlens.analysis.store.collect import collect
from mmlens.analysis.store.states import States
from mmlens.core.contract import checked
from mmlens.core.errors import InputError
from mmlens.core.kinds import Count, Index, Several
from mmlens.core.rules import Positions
from mmlens.interventions.steering_vector import SteeringVector
from mmlens.models.hooked import HookedMultimodal

if TYPE_CHECKING:
    from mmlens.analysis.concepts.bank import ConceptBank


@checked
def steering_vector(
    source: States | Float[torch.Tensor, "sample d_model"],
    target: States | Float[torch.Tensor, "sample d_model"],
    *,
    at: str | None = None,
) -> SteeringVector:
    """The coarse vector: from the mean of one set of states to the mean of another.

    Args:
        source: states of what is to be changed ("yes" answers); `[sample d_model]`.
        target: states of what it should become ("no" answers), at the same point; the two need not be paired, and may come
            from a model and its fine-tuned version.
        at: the hook point, where tensors are given.

    Returns:
        `mean(target) - mean(source)`, with counts, sample hashes and models in its provenance.

    Raises:
        InputError: for states of different points or widths, or none.

    Example:
        >>> no, yes = torch.randn(20, model.cfg.d_model), torch.randn(30, model.cfg.d_model)
        >>> steering_vector(yes, no, at="blocks.4.hook_resid_post")
        SteeringVector(blocks.4.hook_resid_post, [192], norm ..., mean difference)
    """
    points = {states.at for states in (source, target) if isinstance(states, States)} | ({at} if at else set())
    if len(points) != 1:
        names = ", ".join(sorted(points)) or "none"
        raise InputError(f"A steering vector belongs to one hook point, found {names}; give states of one, or at=.")
    ends = [_mean(states, side) for states, side in ((source, "source"), (target, "target"))]
    if ends[0].shape != ends[1].shape:
        raise InputError(f"source has width {len(ends[0])} and target {len(ends[1])}; take both at one point.")
    provenance = {"method": "mean difference", "source": _about(source), "target": _about(target)}
    return SteeringVector(ends[1] - ends[0], points.pop(), provenance)


def _mean(states: States | torch.Tensor, side: str) -> torch.Tensor:
    values = states.values if isinstance(states, States) else states
    if values.ndim != 2 or not len(values):
        raise InputError(f"{side} must be [sample d_model] with at least one sample, found {list(values.shape)}.")
    return values.double().mean(0)


def _about(states: States | torch.Tensor) -> dict[str, Any]:
    """What is kept of a set of states: how many, their words, and one hash of all their samples."""
    if not isinstance(states, States):
        return {"count": len(states)}
    digest = hashlib.sha256("|".join(sorted(states.keys)).encode()).hexdigest()[:16]
    return {"count": len(states), "words": sorted(set(states.tokens)), "samples": digest, "model": states.source}


@checked
def concept_steering_vectors(
    bank: "ConceptBank", *, sources: Several[Index] | None = None, targets: Several[Index] | None = None
) -> dict[tuple[int, int], SteeringVector]:
    """The fine vectors: from each concept of a bank to each other one.

    Args:
        bank: concepts of the states that are to be steered.
        sources, targets: which concepts; all by default.

    Returns:
        `u_j - u_i` under the key `(i, j)`.

    Raises:
        InputError: for a concept that the bank does not have.
    """
    count = len(bank.vectors)
    indices = [list(range(count)) if numbers is None else list(numbers) for numbers in (sources, targets)]
    wrong = sorted({number for numbers in indices for number in numbers if not 0 <= number < count})
    if wrong:
        raise InputError(f"The bank has concepts 0..{count - 1}, not {', '.join(map(str, wrong))}.")
    vectors = {}
    for i in indices[0]:
        for j in indices[1]:
            if i != j:
                provenance = {"method": "concept difference", "source": i, "target": j, "concepts": count}
                vectors[i, j] = SteeringVector(bank.vectors[j] - bank.vectors[i], bank.at, provenance)
    return vectors


@checked
def contrastive_vector(
    model: HookedMultimodal,
    dataset: Dataset,
    *,
    positive: str,
    negative: str,
    at: str,
    positions: Positions = "last",
    method: DirectionChoice = "mean",
    batch_size: Count = 8,
    progress: bool = True,
) -> SteeringVector:
    """A vector from two prompts about the same pictures: what one of them brings about in the states.

    Args:
        model: the hooked model.
        dataset: see `mmlens.analysis.samples.sample.Dataset`; each sample is asked both prompts in the place of its own.
        positive: the prompt that leads where the model should go.
        negative: the prompt that leads away from it.
        at: the hook point.
        positions: whose states; the last position of the prompt by default.
        method: how the direction is found between the states of a sample under both prompts: `"mean"`, `"pca_center"`,
            `"pca_diff"`; the latter two are of unit length.
        batch_size: samples at a time.
        progress: show a progress bar.

    Returns:
        The direction from negative to positive; by default the mean difference.

    Raises:
        InputError: for equal prompts, an empty dataset, or samples whose states do not pair up.
    """
    if positive == negative:
        raise InputError(f"positive and negative are the same prompt, {positive!r}.")
    samples = list(as_samples(dataset))
    states = []
    for prompt in (negative, positive):
        questions = [Sample(sample.images, prompt, name=sample.name) for sample in samples]
        store = collect(
            model, questions, at=at, positions=positions, dtype="float32", batch_size=batch_size, progress=progress
        )
        states.append(store.at(at))
    rule = cast(DirectionMethod, method)
    vector = steering_vector(*states)  # checks that both are of one point, and says what they are
    direction = rule.direction(*(state.values.double() for state in states))
    provenance = {
        **vector.provenance,
        "method": "contrastive prompts" if isinstance(rule, MeanDifference) else f"contrastive prompts, {rule}",
        "positive": positive,
        "negative": negative,
    }
    return SteeringVector(direction, vector.at, provenance)
