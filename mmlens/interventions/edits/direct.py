"""Deltas in closed form, from what the rows do to two logits: the network is asked only when to stop."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Int

from mmlens.core.errors import InputError
from mmlens.core.unit_sets import Units
from mmlens.inputs.batch import MultimodalBatch
from mmlens.interventions.edits.lessons import Lesson, at
from mmlens.models.hooked import HookedMultimodal
from mmlens.models.weight_rows import rows_added

Penalty = Literal["l2", "l2sq"]
#: Halvings of the interval in which the smallest sufficient change is looked for.
_BISECTIONS = 6
_DOUBLINGS = 30


@dataclass(frozen=True)
class Direct:
    """How rows are moved along the two words' directions: a reconstruction, see below. Minimised, for each row i, is

        q_i delta_i . u_source - q_i delta_i . u_target + beta * ||delta_i||      ("l2", or squared: "l2sq")

    with q_i the mean input of the row where the source is said, and u the columns of `W_U`. With the squared norm the
    minimum is `delta_i = q_i (u_target - u_source) / (2 beta)`. With the plain norm there is none: with
    `u = u_target - u_source`, rows of `|q_i| ||u|| <= beta` stay as they are, and the others move for ever, in a straight line;
    gradient descent from zero has then gone `rate * steps * (|q_i| ||u|| - beta)` along `sign(q_i) u`.

    Attributes:
        penalty: `"l2"` or `"l2sq"`.
        beta: its weight. For `"l2sq"`, None takes the largest that suffices.
        reach: for `"l2"`, how far gradient descent goes, rate times steps; None for the shortest that suffices.
        stop_at: what suffices: the real network gives the target this probability
        share: at this share of the places where the source was said. (Too large a change breaks more than it mends: to
            insist on the last place can cost the others.)

    Source: Pan et al., "Finding and Editing Multi-Modal Neurons in Pre-Trained Transformers", Findings of ACL 2024
    (https://arxiv.org/abs/2311.07470). *Departs:* the paper's editor is not published; this objective is a reconstruction
    from what is known of it. q is always the input of the down projection, which is what multiplies the row.
    """

    penalty: Penalty = "l2sq"
    beta: float | None = None
    reach: float | None = None
    stop_at: float = 0.5
    share: float = 0.9

    def __post_init__(self) -> None:
        if self.penalty not in get_args(Penalty):
            raise InputError(f"penalty={self.penalty!r} must be 'l2' or 'l2sq'.")
        if not (0 < self.stop_at <= 1 and 0 < self.share <= 1):
            raise InputError(f"stop_at={self.stop_at} and share={self.share} must be above 0 and at most 1.")
        if self.beta is not None and (self.beta < 0 or (self.beta == 0 and self.penalty == "l2sq")):
            raise InputError(f"beta={self.beta} must be above 0 (for 'l2': at least 0).")
        if self.reach is not None and self.reach <= 0:
            raise InputError(f"reach={self.reach} must be above 0.")
        if self.reach is not None and self.penalty == "l2sq":
            raise InputError("reach has no meaning for penalty='l2sq', whose minimum beta decides; leave it out.")


@torch.no_grad()
def direct(
    model: HookedMultimodal,
    rows: Units,
    taught: Sequence[Lesson],
    settings: Direct,
    *,
    source: int,
    target: int,
) -> tuple[Float[torch.Tensor, "row d_model"], dict[str, Any]]:
    """Deltas of the rows, and what was found on the way (`beta` or `reach`, and whether it suffices).

    Args:
        model: the hooked model.
        rows: whose deltas.
        taught: where the source is said.
        settings: see `Direct`.
        source, target: token ids.
    """
    activity = torch.cat([activity_at(model, lesson.batch, lesson.spots, rows) for lesson in taught]).mean(0)
    direction = (model.W_U[:, target] - model.W_U[:, source]).detach().float().cpu()
    if settings.penalty == "l2sq":
        pattern = activity[:, None] * direction / 2
        strength = None if settings.beta is None else 1 / settings.beta
    else:
        pull = (activity.abs() * direction.norm() - (settings.beta or 0.0)).clamp(min=0)
        pattern = (activity.sign() * pull)[:, None] * (direction / direction.norm())
        strength = settings.reach
        if not pull.any():
            raise InputError(
                f"beta={settings.beta} holds every row where it is: the largest pull is "
                f"{float((activity.abs() * direction.norm()).max()):.3g}. Choose a smaller one."
            )
    if not pattern.any():
        raise InputError(
            f"None of the {len(rows)} neurons is active where the source is said, so no row can change it."
        )
    suffices = _sufficient(model, rows, taught, pattern, target, settings)
    found = strength
    if found is None:
        found = _smallest(suffices)
    reached = suffices(found)
    named = {"beta": 1 / found} if settings.penalty == "l2sq" else {"reach": found}
    return found * pattern, {**named, "reached": reached}


def _sufficient(
    model: HookedMultimodal,
    rows: Units,
    taught: Sequence[Lesson],
    pattern: torch.Tensor,
    target: int,
    settings: Direct,
) -> Callable[[float], bool]:
    """Whether a multiple of a pattern gives the target enough probability at enough places, by the real network."""

    def suffices(strength: float) -> bool:
        with rows_added(model, rows, lambda: strength * pattern):
            found = torch.cat([at(model(lesson.batch), lesson.spots)[:, target].exp().cpu() for lesson in taught])
        return float((found >= settings.stop_at).float().mean()) >= settings.share

    return suffices


def _smallest(suffices: Callable[[float], bool]) -> float:
    """The smallest strength that suffices, to within 1 / 2**6 of it; the largest tried if none does."""
    high = 2.0**-10
    for _ in range(_DOUBLINGS):
        if suffices(high):
            break
        high *= 2
    else:
        return high
    low = high / 2
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (low, middle) if suffices(middle) else (middle, high)
    return high


@torch.no_grad()
def activity_at(
    model: HookedMultimodal, batch: MultimodalBatch, places: Int[torch.Tensor, "place 2"], rows: Units
) -> Float[torch.Tensor, "place row"]:
    """What multiplies each row, the input of its down projection, at `(sample, position)` places; on the CPU, float32."""
    numbers: dict[str, list[int]] = {}
    for number, neuron in enumerate(rows):
        numbers.setdefault(neuron.hook, []).append(number)
    found = torch.zeros(len(places), len(rows))

    def keep(activation: torch.Tensor, hook: Any) -> None:
        here = numbers[hook.name]
        where = places.to(activation.device)
        there = activation[where[:, 0], where[:, 1]]
        found[:, here] = there[:, [rows[n].index for n in here]].float().cpu()

    model.run_with_hooks(batch, fwd_hooks=[(list(numbers), keep)])
    return found
