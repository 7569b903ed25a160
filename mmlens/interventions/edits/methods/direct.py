"""Deltas in closed form, from what the rows do to two logits: the network is asked only when to stop."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from mmlens.core.errors import InputError
from mmlens.core.kinds import NonNegative, Positive
from mmlens.interventions.edits.examples import EditExample, activity_at, at
from mmlens.interventions.edits.method import EDIT_METHODS, EditMethod, Enough, MethodDeltas, WordTask
from mmlens.models.weight_rows import rows_added

Penalty = Literal["l2", "l2sq"]
#: Halvings of the interval in which the smallest sufficient change is looked for.
_BISECTIONS = 6
_DOUBLINGS = 30


@EDIT_METHODS.register("direct")
@dataclass(frozen=True)
class Direct(EditMethod):
    """Rows moved along the two words' directions in closed form: a reconstruction.

    Minimised, for each row i, is

        q_i delta_i . u_source - q_i delta_i . u_target + beta * ||delta_i||      ("l2", or squared: "l2sq")

    with q_i the mean input of the row where the source is said, and u the columns of `W_U`. With the squared norm the
    minimum is `delta_i = q_i (u_target - u_source) / (2 beta)`. With the plain norm there is none: with
    `u = u_target - u_source`, rows of `|q_i| ||u|| <= beta` stay as they are, and the others move for ever, in a straight line;
    gradient descent from zero has then gone `rate * steps * (|q_i| ||u|| - beta)` along `sign(q_i) u`.

    Of a target of several tokens the first term is the sum over its tokens, each where it is wanted behind those before it, and
    the source there is what the model itself would say: `q_i u` is then `sum over t of q_it (u_target_t - u_said_t)`. Tokens
    that it says anyway do not count.

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

    needs: ClassVar[frozenset[str]] = frozenset({"a target word", "rows that write words", "no controls"})
    title: ClassVar[str] = "direct (a reconstruction)"

    penalty: Penalty = "l2sq"
    beta: NonNegative | None = None
    reach: Positive | None = None
    stop_at: Enough = 0.5
    share: Enough = 0.9

    def __post_init__(self) -> None:
        if self.beta == 0 and self.penalty == "l2sq":
            raise InputError("beta=0 must be above 0 for penalty='l2sq', whose minimum would be infinitely far.")
        if self.reach is not None and self.penalty == "l2sq":
            raise InputError("reach has no meaning for penalty='l2sq', whose minimum beta decides; leave it out.")

    def deltas(self, task: WordTask, *, progress: bool) -> MethodDeltas:
        with torch.no_grad():
            pattern, strength = self._pattern(task)
            strength = (
                _smallest(lambda strength: self._suffices(task, strength * pattern)) if strength is None else strength
            )
            suffices = self._suffices(task, strength * pattern)
        name, value = ("beta", 1 / strength) if self.penalty == "l2sq" else ("reach", strength)
        return MethodDeltas(strength * pattern, {name: value, "reached": suffices})

    def _pattern(self, task: WordTask) -> tuple[torch.Tensor, float | None]:
        """The direction of the deltas `[row d_model]`, and how far along it they go, where the settings say so."""
        pull = torch.stack([_pull(task, example) for example in task.examples]).sum(0)
        pull = pull / sum(len(example.source_log_probabilities) for example in task.examples)
        if not pull.any():
            raise InputError(
                f"None of the {len(task.rows)} neurons is active where the source is said, so no row can change it."
            )
        if self.penalty == "l2sq":
            return pull / 2, None if self.beta is None else 1 / self.beta
        size = pull.norm(dim=-1, keepdim=True)
        reach = (size - (self.beta or 0.0)).clamp(min=0)
        if not reach.any():
            raise InputError(
                f"beta={self.beta} holds every row where it is: the largest pull is {float(size.max()):.3g}. Choose a "
                "smaller one."
            )
        return reach * pull / size.clamp(min=torch.finfo(pull.dtype).tiny), self.reach

    def _suffices(self, task: WordTask, deltas: torch.Tensor) -> bool:
        """Whether deltas give the target enough probability at enough places, by the real network."""
        with rows_added(task.model, task.rows, lambda: deltas):
            probability = torch.cat([
                _wanted_now(task, example).exp().cpu() for example in task.examples
            ])  # fmt: skip
        return float((probability >= self.stop_at).float().mean()) >= self.share


def _pull(task: WordTask, example: EditExample) -> torch.Tensor:
    """The sum over places of each row's input times the direction from what is said there to what is wanted, `[row d_model]`."""
    activity = activity_at(task.model, example.batch, example.source_places, task.rows)
    answers = at(task.model(example.batch), example.source_places).argmax(-1).cpu()
    # a token that is said anyway has no direction of its own
    directions = (task.model.W_U[:, example.place_tokens] - task.model.W_U[:, answers]).detach().float().cpu()
    return activity.T @ directions.T


def _wanted_now(task: WordTask, example: EditExample) -> torch.Tensor:
    """Log-probabilities of what is wanted where the source was said."""
    now = at(task.model(example.batch), example.source_places)
    return now.gather(1, example.place_tokens[:, None].to(now.device))[:, 0]


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
