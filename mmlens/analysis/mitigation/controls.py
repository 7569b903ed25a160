"""Random controls of interventions: as strong a change, of something else.

A steering vector becomes a random direction of its length; a boost of attention gets a random sign in each head; sinks that are
redistributed become random columns that lose as much attention; units that are ablated become random units of their blocks that
write as strongly; keys that are cut, and rows of an object that are replaced, become as many random rows; whatever else moves
states moves them as far in a random direction.
"""

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from jaxtyping import Bool, Float

from mmlens.analysis.controls.random_units import random_units
from mmlens.core.errors import InputError
from mmlens.core.regions import Region
from mmlens.core.rules import Index, RandomRows, Row, Word, as_rule
from mmlens.core.units import Head
from mmlens.hooks.session import HookFunction, HookPair
from mmlens.interventions.ablation import Ablate
from mmlens.interventions.activations import gaussian
from mmlens.interventions.attention_boost import BoostAttention
from mmlens.interventions.knockout import KnockOut
from mmlens.interventions.positioned import AtPoints
from mmlens.interventions.sink_redistribution import RedistributeSinks, hand_on
from mmlens.interventions.steering import Steer
from mmlens.interventions.steering_table import SteeringTable
from mmlens.interventions.steering_vector import SteeringVector
from mmlens.interventions.vector_predictor import VectorPredictor
from mmlens.models.hooked import HookedMultimodal
from mmlens.models.run import Run, Watching
from mmlens.models.runs import Intervention


def random_like(act: Intervention, model: HookedMultimodal, seed: int) -> Intervention | None:
    """An intervention that changes as much of something else; None where there is nothing else to change.

    Args:
        act: the intervention.
        model: on which it acts.
        seed: of what is drawn.
    """
    match act:
        case Steer() if isinstance(act.vector, SteeringVector):
            return replace(act, vector=act.vector.random(seed=seed))
        case Steer() if isinstance(act.vector, SteeringTable):
            return replace(act, vector=_random_table(act.vector, seed))
        case Steer() if isinstance(act.vector, VectorPredictor):
            return replace(act, vector=_RandomPredictor(act.vector, seed))
        case BoostAttention():
            return _SignedBoost(act, seed)
        case RedistributeSinks():
            return RandomDonors(seed, **{field.name: getattr(act, field.name) for field in fields(act) if field.init})
        case Ablate():
            try:
                return replace(act, units=random_units(model, act.units, match="write_norm", draws=1, seed=seed)[0])
            except InputError:  # too few other units in a block
                return None
        case KnockOut():
            return replace(act, keys=RandomRows(as_rule(act.keys), seed, as_rule(act.queries)))
        case AtPoints() if any(isinstance(leaf, Region | Word | Index | Row) for leaf in act.rule.leaves()):
            return replace(act, positions=RandomRows(act.rule, seed))
    nodes = [node for names, _ in act.hooks(model) for node in model.graph.select(names)]
    # patterns add up to 1, and masked scores are no numbers to move
    return None if any("key" in node.axes.split() for node in nodes) else _RandomMoves(act, seed)


def _random_table(table: SteeringTable, seed: int) -> SteeringTable:
    """A table of random directions as long, each sample's decided by its key, so that it is the same in any batch."""
    entries = [str(row) for row in range(len(table.vectors))] if table.by == "row" else table.keys
    names = entries or ("",) * len(table.vectors)
    drawn = torch.stack([gaussian(torch.zeros(table.width), seed, name) for name in names])
    lengths = table.vectors.norm(dim=1, keepdim=True)
    return replace(table, vectors=drawn * lengths / drawn.norm(dim=1, keepdim=True), provenance={"method": "random"})


class _RandomPredictor(VectorPredictor):
    """One random direction, for each sample as long as the vector that a predictor predicts."""

    def __init__(self, predictor: VectorPredictor, seed: int):
        self.predictor, self.seed = predictor, seed
        self.at, self.read_at = predictor.at, predictor.read_at

    def __repr__(self) -> str:
        return f"{self.predictor!r} with random directions, seed {self.seed}"

    @property
    def width(self) -> int:
        """As of the predictor."""
        return self.predictor.width

    @property
    def state_width(self) -> int:
        """As of the predictor."""
        return self.predictor.state_width

    def predict(self, states: torch.Tensor) -> torch.Tensor:
        """The direction, of each vector's length."""
        direction = gaussian(torch.zeros(self.width), self.seed, self.at)
        return self.predictor.predict(states).norm(dim=1, keepdim=True) * direction / direction.norm()


class _SignedBoost:
    """A boost of attention whose alpha has a random sign in each head of each layer."""

    def __init__(self, boost: BoostAttention, seed: int):
        self.boost, self.seed = boost, seed
        self._parts: list[BoostAttention] = []

    def __repr__(self) -> str:
        return f"{self.boost!r} with random signs, seed {self.seed}"

    def hooks(self, model: HookedMultimodal) -> list[Any]:
        """The hooks of two boosts: of some heads up, of the others down."""
        names = [str(name) for name, _ in self.boost.hooks(model)]
        heads = {name: model.graph.unit_counts[f"{name.rpartition('.')[0]}.hook_z"] for name in names}
        generator = torch.Generator().manual_seed(self.seed)
        signs = [
            (name, head, bool(torch.rand(1, generator=generator) < 0.5))
            for name in names
            for head in range(heads[name])
        ]
        self._parts = []
        for up in (True, False):
            units = [_head(model, name, head) for name, head, is_up in signs if is_up is up]
            if units:
                alpha = self.boost.alpha if up else -self.boost.alpha
                self._parts.append(replace(self.boost, layers=None, heads=units, alpha=alpha))
        return [pair for part in self._parts for pair in part.hooks(model)]

    def starts(self, run: Any) -> None:
        """Resolve the positions of both."""
        for part in self._parts:
            part.starts(run)


def _head(model: HookedMultimodal, scores: str, index: int) -> Head:
    """A head of the attention whose scores are at a point."""
    node = model.graph[scores]
    branch = scores.rpartition(".")[0].rpartition(".")[2]
    return Head(node.layer or 0, index, node.part, stack=node.stack or "", branch=branch)


@dataclass(frozen=True)
class RandomDonors(RedistributeSinks):
    """The same heads and queries changed by as much attention as sinks would free, which random other columns of the prompt lose.

    So many columns lose it, in a random order, as have enough; the picture's remaining columns get it, in proportion to what they
    have. Where there is too little attention besides the sinks, it is all that there is.

    Attributes:
        seed: of the order.
    """

    seed: int = 0

    def moved(
        self,
        pattern: Float[torch.Tensor, "batch head query key"],
        is_image: Bool[torch.Tensor, "batch 1 1 key"],
        is_sink: Bool[torch.Tensor, "batch 1 1 key"],
        is_query: Bool[torch.Tensor, "batch 1 query"],
        is_prompt: Bool[torch.Tensor, "batch 1 1 key"],
    ) -> tuple[Float[torch.Tensor, "batch head query key"], Bool[torch.Tensor, "batch head query"]]:
        """See `RedistributeSinks.moved`."""
        _, is_changed = super().moved(pattern, is_image, is_sink, is_query, is_prompt)
        freed = (1 - self.factor) * (pattern * is_sink).sum(-1, keepdim=True)
        # columns are numbered within their own prompt, so that padding changes no draw
        own = (is_prompt.long().cumsum(-1) - 1).clamp_min(0)
        draws = torch.rand(int(own.max()) + 1, generator=torch.Generator().manual_seed(self.seed)).to(pattern.device)
        order = draws[own].masked_fill(~is_prompt | is_sink, 2.0).argsort(-1).expand(pattern.shape)
        attention = (pattern * (is_prompt & ~is_sink)).gather(-1, order)
        before = attention.cumsum(-1) - attention
        is_donor = torch.zeros_like(pattern, dtype=torch.bool).scatter(-1, order, (before < freed) & (attention > 0))
        given = (pattern * is_donor).sum(-1, keepdim=True)
        share = (freed / given.clamp_min(1e-12)).clamp_max(1.0)
        receivers = pattern * (is_image & ~is_sink & ~is_donor)
        is_changed = is_changed & (receivers.sum(-1) > 0) & (given > 0)[..., 0]
        return hand_on(pattern, is_donor, 1 - share, receivers, (share * given)[..., 0], is_changed), is_changed


class _RandomMoves:
    """States moved as far as an intervention moves them, each point's in one random direction."""

    def __init__(self, act: Intervention, seed: int):
        self.act, self.seed = act, seed

    def __repr__(self) -> str:
        return f"{self.act!r} in a random direction, seed {self.seed}"

    def hooks(self, model: HookedMultimodal) -> list[HookPair]:
        """The intervention's hooks, each with its change turned."""
        return [(names, self._turned(change)) for names, change in self.act.hooks(model)]

    def _turned(self, change: HookFunction) -> HookFunction:
        if getattr(change, "reads_only", False):
            return change

        def turn(activation: torch.Tensor, hook: Any) -> torch.Tensor | None:
            old = activation.clone()
            new = change(activation, hook)
            moved = ((activation if new is None else new) - old).norm(dim=-1, keepdim=True)
            if not moved.any():
                return old
            direction = gaussian(torch.zeros(old.shape[-1]), self.seed, hook.name).to(old)
            return old + moved * direction / direction.norm()

        return turn

    def starts(self, run: Run) -> None:
        """As the intervention."""
        if isinstance(self.act, Watching):
            self.act.starts(run)
