"""Deltas of rows found by gradient descent through the real network."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch.nn.attention import SDPBackend, sdpa_kernel

from mmlens.core.errors import InputError
from mmlens.core.kinds import Count, CountOrZero, NonNegative, Positive, Seed
from mmlens.core.progress import ProgressBar
from mmlens.core.unit_sets import Units
from mmlens.interventions.edits.examples import EditExample, at
from mmlens.interventions.edits.method import EDIT_METHODS, EditMethod, Enough, MethodDeltas, WordTask
from mmlens.interventions.edits.rows import read_rows
from mmlens.models.hooked import HookedMultimodal
from mmlens.models.weight_rows import rows_added

Deltas = Float[torch.Tensor, "row d_model"]


@EDIT_METHODS.register("through")
@dataclass(frozen=True)
class Through(EditMethod):
    """Rows optimised by Adam through the real network. No weight is written on the way.

    The loss of a step is

        say + penalty * ||delta||_F + keep * KL_answers + keep_controls * KL_controls + repetition * again

    where `say` is the worst `-log p(target)` of each sample's places (mean over samples), KL is `KL(before || after)` in
    nats, mean over the other places of the answers and over the answers to control prompts, and `again` is the worst
    `-log(1 - p(target))` where the target might be said a second time.

    Attributes:
        penalty: weight of the size of the change.
        keep: weight of the KL at the other places of the answers.
        keep_controls: weight of the KL on control prompts.
        repetition: weight of saying the target twice.
        learning_rate: of Adam.
        n_steps: at most; a step takes one batch of prompts and one of controls.
        stop_at: stop once the target has this probability at every place, and
        stop_kl: the mean KL of every batch, of prompts and of controls, is below this, in nats.
        frozen_last: rows of this many last layers are left alone.
        seed: of the order of the batches.

    Source: the editor of FiNE, Pan et al., "Precise Localization of Memories", ICLR 2025 (code: github.com/opanhw/FiNE), which
    follows "Finding and Editing Multi-Modal Neurons", Findings of ACL 2024 (https://arxiv.org/abs/2311.07470).
    *Departs:* several scenes are taught together; other prompts' answers are kept by a KL of their own; the KL on prompts
    is taken on their answers, to what the model said there before the word was replaced; deltas are kept in float32 and
    every sample of a batch is edited (the published hook broadcasts the first one's).
    """

    needs: ClassVar[frozenset[str]] = frozenset({"gradients"})
    title: ClassVar[str] = "through"

    penalty: NonNegative = 0.1
    keep: NonNegative = 1.0
    keep_controls: NonNegative = 1.0
    repetition: NonNegative = 10.0
    learning_rate: Positive = 5e-3
    n_steps: Count = 50
    stop_at: Enough = 0.9
    stop_kl: NonNegative = 0.01
    frozen_last: CountOrZero = 0
    seed: Seed = 0

    def editable(self, model: HookedMultimodal, rows: Units) -> Units:
        """The rows whose layers are not frozen: those of the last ones of their stack.

        Raises:
            InputError: if none is left.
        """
        depths: dict[tuple[str, str | None], int] = {}
        for node in model.graph:
            depths[node.part, node.stack] = max(depths.get((node.part, node.stack), 0), (node.layer or 0) + 1)
        free = Units(row for row in rows if not row.stack or row.layer < depths[row.part, row.stack] - self.frozen_last)
        if not free:
            raise InputError(
                f"frozen_last={self.frozen_last} leaves none of the {len(rows)} neurons to edit (in "
                f"{', '.join(rows.by_layer())}); the stack has {max(depths[row.part, row.stack] for row in rows)} layers. "
                "Choose neurons of earlier layers, or freeze fewer."
            )
        return free

    @property
    def weights(self) -> dict[str, float]:
        """Of the terms of the loss."""
        return {
            "say": 1.0,
            "answers": self.keep,
            "instead": self.keep,
            "controls": self.keep_controls,
            "again": self.repetition,
            "size": self.penalty,
        }

    def deltas(self, task: WordTask, *, progress: bool) -> MethodDeltas:
        start = torch.zeros_like(read_rows(task.model, task.rows), dtype=torch.float32)
        return optimise(task, self, start=start, progress=progress)


def optimise(
    task: WordTask,
    settings: Through,
    *,
    start: torch.Tensor,
    deltas_of: Callable[[torch.Tensor], Deltas] = lambda parameters: parameters,
    progress: bool = True,
) -> MethodDeltas:
    """Find deltas by Adam, through the real network. No weight is written, so that an interrupt leaves the model as it was.

    Gradients are on in here, also where the caller has switched them off, as notebooks do in their first cell.

    Args:
        task: what is to be achieved.
        settings: weights of the loss, and when to stop.
        start: first value of what is optimised.
        deltas_of: deltas of the parameters; they themselves by default.
        progress: show a progress bar over steps.
    """
    model, examples, controls = task.model, task.examples, task.controls
    parameters = start.detach().clone().to(model.device).requires_grad_(True)
    adam = torch.optim.Adam([parameters], lr=settings.learning_rate)
    losses: dict[str, list[float]] = {}
    last: dict[tuple[str, int], dict[str, float]] = {}
    counts = (len(examples), len(controls), len(task.consistency))
    order = zip(*(_cycle(count, settings.seed + number) for number, count in enumerate(counts)), strict=False)
    bar = ProgressBar("edit", total=settings.n_steps, disable=not progress)
    reason = "n_steps"
    with (
        bar,
        torch.enable_grad(),
        _quick_backward(model),
        rows_added(model, task.rows, lambda: deltas_of(parameters)),
        _detached_below(model, task.rows),
    ):
        for step, (number, control, question) in enumerate(order, start=1):
            terms, state = _terms(task, examples[number])
            last["examples", number] = state
            if control is not None:
                answers = at(model(controls[control].batch), controls[control].other_places)
                kl = _kl(answers, controls[control].other_log_probabilities)
                terms["controls"], last["controls", control] = kl, {"kl": float(kl.detach())}
            if question is not None:
                agreement, state = _terms(task, task.consistency[question])
                terms["agreement"], last["consistency", question] = agreement["say"], state
            terms["size"] = deltas_of(parameters).norm()
            loss = _loss(terms, settings)
            (gradient,) = torch.autograd.grad(loss, parameters)
            for name, value in {**terms, "loss": loss}.items():
                losses.setdefault(name, []).append(float(value.detach()))
            if _goal_met(last, sum(counts), settings):
                reason = "reached"
                break
            parameters.grad = gradient
            adam.step()
            bar.update()
            if step == settings.n_steps:
                break
            bar.set_postfix(loss=f"{losses['loss'][-1]:.3f}")
    return MethodDeltas(deltas_of(parameters).detach().cpu(), {"stopped": reason}, losses)


def _cycle(count: int, seed: int) -> Iterator[int | None]:
    """Numbers 0 to count - 1 in a new order every round, for ever; None where there are none."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield from torch.randperm(count, generator=generator).tolist() if count else [None]


def _terms(task: WordTask, example: EditExample) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """The loss terms of one example, and what decides when to stop."""
    logits = task.model(example.batch)
    now = at(logits, example.source_places)
    tokens = example.place_tokens.to(now.device)
    there = now.gather(1, tokens[:, None])[:, 0]
    unsaid = torch.log1p(-there.exp().clamp(max=1 - 1e-6))
    good = unsaid if task.target is None else there
    sample = example.source_places[:, 0].to(good.device)
    worst = torch.full((example.batch.size,), 0.0, device=good.device).scatter_reduce(0, sample, -good, "amax")
    terms = {"say": worst[sample.unique()].mean()}
    if len(example.other_places):
        terms["answers"] = _kl(at(logits, example.other_places), example.other_log_probabilities)
    if task.target is None:
        terms["instead"] = _kl(now, _without(example.source_log_probabilities, example.place_tokens))
    elif len(example.follow_places):
        # all places of an example hold the target in one form, so that the first of them is its first token
        again = at(logits, example.follow_places)[:, tokens[0]].exp().clamp(max=1 - 1e-6)
        terms["again"] = (-torch.log1p(-again)).max()
    drift = max((float(terms[name].detach()) for name in ("answers", "instead") if name in terms), default=0.0)
    return terms, {"worst": float(good.detach().min().exp()), "kl": drift}


def _kl(after: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
    """`KL(before || after)` of log-probabilities `[place vocab]`, in nats, mean over places."""
    return torch.nn.functional.kl_div(after, before.to(after.device), log_target=True, reduction="batchmean")


def _without(log_probabilities: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """The same distributions with one token left out of each."""
    minimum = torch.finfo(log_probabilities.dtype).min
    return log_probabilities.scatter(1, tokens[:, None].to(log_probabilities.device), minimum).log_softmax(-1)


def _loss(terms: dict[str, torch.Tensor], settings: Through) -> torch.Tensor:
    weights = settings.weights
    return torch.stack([weights[name] * term for name, term in terms.items()]).sum()


def _goal_met(last: dict[tuple[str, int], dict[str, float]], batches: int, settings: Through) -> bool:
    """Whether every batch was as it should be when it last ran."""
    if len(last) < batches:
        return False
    return all(run.get("worst", 1.0) >= settings.stop_at and run["kl"] <= settings.stop_kl for run in last.values())


@contextmanager
def _detached_below(model: HookedMultimodal, rows: Units) -> Iterator[None]:
    """No graph below the first edited block, if it is one of the language model's: no gradient flows there."""
    points = rows.by_point()
    first = next(points[name][0] for name in model.graph.names if name in points)
    name = f"{first.stack}.{first.layer}.hook_resid_pre"
    if first.part != "language" or name not in model.graph:
        yield
        return
    with model.hooks([(name, lambda activation, hook: activation.detach())]):
        yield


def _quick_backward(model: HookedMultimodal) -> Any:
    """On CPUs the backward of torch's fused attention takes several times as long as plain matrix products."""
    return sdpa_kernel(SDPBackend.MATH) if model.device.type == "cpu" else nullcontext()
