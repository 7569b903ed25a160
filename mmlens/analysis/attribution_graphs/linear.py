"""A model that is linear around one run: patterns, norms' divisors, gates and what MLPs write are held fast.

In the run every cut hands on a constant (and what a transcoder leads past its features), every entrance its rows as constants, so
that each number behind them is a sum over these constants, by gradients that do not depend on them, and a bias.

Source: Ameisen et al., "Circuit Tracing: Revealing Computational Graphs in Language Models", 2025
(https://transformer-circuits.pub/2025/attribution-graphs/methods.html), local replacement model.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float

from mmlens.analysis.attribution_graphs.structure import Cut, Structure
from mmlens.analysis.features.dictionary import SparseDictionary
from mmlens.analysis.neurons.differentiation import differentiable
from mmlens.hooks.point import Point, reads_only
from mmlens.hooks.session import HookPair, attached
from mmlens.inputs.batch import MultimodalBatch
from mmlens.models.claims import claimed
from mmlens.models.hooked import HookedMultimodal

#: The point of the head's output, whose rows are targets.
HEAD = "hook_logits"


@dataclass
class LinearRun:
    """What a run held, with its graph of gradients.

    Attributes:
        logits: what the model returned, `[batch pos vocab]`.
        reads: what each dictionary read, by its cut, and what the head returned.
        leaves: the constants of cuts and entrances, by their point.
        fixed: what was held fast, by point and in the order of calls; None in calls that no constant reaches.
    """

    logits: torch.Tensor
    reads: dict[str, torch.Tensor] = field(default_factory=dict)
    leaves: dict[str, torch.Tensor] = field(default_factory=dict)
    fixed: dict[str, list[torch.Tensor | None]] = field(default_factory=dict)


@dataclass(frozen=True)
class LinearModel:
    """A model made linear around its run on a batch of one sample.

    Attributes:
        model: the hooked model.
        batch: one sample.
        structure: what is held fast.
    """

    model: HookedMultimodal
    batch: MultimodalBatch
    structure: Structure

    def run(self) -> LinearRun:
        """Run once, with gradients by every constant."""
        run = LinearRun(torch.empty(0))

        def cut(held: Cut, y: torch.Tensor, x: torch.Tensor | None) -> torch.Tensor:
            leaf = run.leaves[held.name] = y.detach().clone().requires_grad_()
            past = None if x is None else past_features(held.dictionary, x, y)
            return leaf if past is None else leaf + (past - past.detach())

        def enter(name: str, x: torch.Tensor) -> torch.Tensor:
            run.leaves[name] = x.detach().clone().requires_grad_()
            return run.leaves[name]

        def hold(name: str, value: torch.Tensor) -> torch.Tensor:
            run.fixed.setdefault(name, []).append(value.detach() if value.requires_grad else None)
            return value.detach()

        def gate(name: str, pre: torch.Tensor, active: torch.Tensor) -> torch.Tensor:
            ratio = torch.where(pre == 0, 0, active / pre).detach()
            run.fixed.setdefault(name, []).append(ratio)
            product = pre * ratio
            return active.detach() + (product - product.detach())

        with differentiable(self.model), self._held(run.reads, cut, enter, hold, gate):
            run.logits = self.model(self.batch).detach()
        return run

    @torch.no_grad()
    def replay(self, run: LinearRun, constants: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """What dictionaries and the head read with other constants, all that was held fast being as it was.

        Args:
            run: the run around which the model is linear.
            constants: what cuts and entrances hand on, by point; zeros where they are not named.
        """
        reads: dict[str, torch.Tensor] = {}
        left = {name: iter(values) for name, values in run.fixed.items()}

        def constant(name: str, like: torch.Tensor) -> torch.Tensor:
            return constants[name].to(like).reshape(like.shape) if name in constants else torch.zeros_like(like)

        def cut(held: Cut, y: torch.Tensor, x: torch.Tensor | None) -> torch.Tensor:
            past = None if x is None else past_features(held.dictionary, x, y)
            return constant(held.name, y) if past is None else constant(held.name, y) + past

        def hold(name: str, value: torch.Tensor) -> torch.Tensor:
            before = next(left[name])
            return value if before is None else before.to(value)

        def gate(name: str, pre: torch.Tensor, active: torch.Tensor) -> torch.Tensor:
            before = next(left[name])
            return active if before is None else pre * before

        with self._held(reads, cut, constant, hold, gate):
            self.model(self.batch)
        return reads

    @contextmanager
    def _held(
        self,
        reads: dict[str, torch.Tensor],
        cut: Callable[[Cut, torch.Tensor, torch.Tensor | None], torch.Tensor],
        enter: Callable[[str, torch.Tensor], torch.Tensor],
        hold: Callable[[str, torch.Tensor], torch.Tensor],
        gate: Callable[[str, torch.Tensor, torch.Tensor], torch.Tensor],
    ) -> Iterator[None]:
        """Hooks at all places that matter, each of which calls what is done there."""
        structure = self.structure
        points: dict[str, Point] = {**self.model.hook_dict, **structure.points}
        pairs: list[HookPair] = []
        for prefix, gated in structure.gates.items():
            pairs += [(f"{prefix}.hook_act", _named(hold))] if gated else _ungated(prefix, reads, gate)
        for entrance in structure.entrances:
            mask = self._text(entrance.node.sequence) if entrance.text_only else None
            pairs.append((entrance.node.name, _entering(enter, mask)))
        for place in structure.cuts:
            if place.source is not None:
                source = f"read:{place.name}"
                points[source] = place.source
                pairs.append((source, _reading(reads, place.name)))
            pairs.append((place.name, _cutting(place, reads, cut)))
        pairs.append((HEAD, _reading(reads, HEAD)))
        # last: a norm whose output is cut acts on what it returned, in front of the cut
        pairs.append(([*structure.scales, *structure.patterns], _named(hold)))
        with claimed(self.model, "An attribution graph"), attached(points, pairs):
            yield

    def _text(self, sequence: str) -> torch.Tensor | None:
        """True at the rows of a sequence of tokens that hold no picture, `[batch pos 1]`; None: all of them."""
        return ~self.batch.layout.is_image[..., None] if sequence == "language" else None


def past_features(dictionary: SparseDictionary | None, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor | None:
    """What a transcoder leads past its features, shaped like what it writes; None where it leads nothing."""
    if dictionary is None or dictionary.W_skip is None:
        return None
    W_skip = dictionary.W_skip
    rows = dictionary.flat(x, dictionary.d_in).to(W_skip.device, W_skip.dtype)
    return (rows @ W_skip.T).to(y).reshape(y.shape)


def flat_rows(x: Float[torch.Tensor, "..."], width: int) -> Float[torch.Tensor, "row d"]:
    """A point's tensor as rows, whatever its batch axes and heads are."""
    return x.reshape(-1, width)


def _named(hold: Callable[[str, torch.Tensor], torch.Tensor]) -> Callable[..., torch.Tensor]:
    return lambda activation, hook: hold(hook.name, activation)


def _reading(reads: dict[str, torch.Tensor], name: str) -> Callable[..., None]:
    @reads_only
    def read(activation: torch.Tensor, hook: Any) -> None:
        reads[name] = activation

    return read


def _cutting(
    place: Cut, reads: dict[str, torch.Tensor], cut: Callable[..., torch.Tensor]
) -> Callable[..., torch.Tensor]:
    def write(activation: torch.Tensor, hook: Any) -> torch.Tensor:
        if place.dictionary is not None and place.source is None:
            reads[place.name] = activation
        return cut(place, activation, reads.get(place.name))

    return write


def _entering(
    enter: Callable[[str, torch.Tensor], torch.Tensor], mask: torch.Tensor | None
) -> Callable[..., torch.Tensor]:
    def write(activation: torch.Tensor, hook: Any) -> torch.Tensor:
        new = enter(hook.name, activation)
        return new if mask is None else torch.where(mask.to(new.device), new, activation)

    return write


def _ungated(prefix: str, reads: dict[str, torch.Tensor], gate: Callable[..., torch.Tensor]) -> list[HookPair]:
    """An MLP whose activation is a factor of its input, act(x) / x."""
    name = f"{prefix}.hook_act"
    return [
        (f"{prefix}.hook_pre", _reading(reads, f"{prefix}.hook_pre")),
        (name, lambda activation, hook: gate(name, reads[f"{prefix}.hook_pre"], activation)),
    ]
