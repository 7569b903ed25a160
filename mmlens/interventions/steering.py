"""Steering: add a direction to the stream, or take one out of it, at chosen positions and steps of a generation.

    x  ->  x + alpha * direction            (Steer)
    x  ->  x - (x . unit) unit              (ProjectOut)

Source: Khayatan et al., "Analyzing Fine-tuning Representation Shift for Multimodal LLMs Steering Alignment", ICCV 2025
(https://arxiv.org/abs/2501.03012), section on steering; directional ablation: Arditi et al., "Refusal in Language Models
Is Mediated by a Single Direction", NeurIPS 2024 (https://arxiv.org/abs/2406.11717), equation 4.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch
from jaxtyping import Float

from mmlens.core.contract import checked
from mmlens.core.errors import InputError
from mmlens.core.names import Names
from mmlens.core.rules import as_rule
from mmlens.hooks.nodes import Node, Selection
from mmlens.hooks.session import HookFunction, HookPair
from mmlens.inputs.point_rows import GROWING
from mmlens.interventions.positioned import Finder, PositionedIntervention
from mmlens.interventions.steering_vector import SteeringVector
from mmlens.models.hooked import HookedMultimodal
from mmlens.models.run import Run

#: Says at which positions to act, given the states `[batch pos d_model]` there: `[batch pos]`.
Gate: TypeAlias = Callable[[torch.Tensor], torch.Tensor]


@runtime_checkable
class PointGate(Protocol):
    """A gate that belongs to certain points, and says so before any run."""

    def check(self, node: Node) -> None:
        """Refuse a point whose states the gate cannot read; raises InputError."""


@dataclass
class Touched:
    """What an intervention has changed since the last run began.

    Attributes:
        tokens: positions, summed over samples and points.
    """

    tokens: int = 0
    _passes: Counter[str] = field(default_factory=Counter)

    @property
    def steps(self) -> int:
        """Forward passes in which something was changed."""
        return max(self._passes.values(), default=0)

    def count(self, name: str, tokens: int) -> None:
        """Note that a point was changed at some positions in one forward pass."""
        self.tokens += tokens
        self._passes[name] += 1

    def forget(self) -> None:
        """Begin anew."""
        self.tokens = 0
        self._passes.clear()

    def __str__(self) -> str:
        return f"{self.tokens} positions in {self.steps} steps"


@dataclass(frozen=True)
class _Positioned(PositionedIntervention):
    """What steering interventions share: when and where they act, and the record of it."""

    vector: SteeringVector
    at: Names | Selection | None = field(default=None, kw_only=True)
    gate: Gate | None = field(default=None, kw_only=True, repr=False)
    touched: Touched = field(default_factory=Touched, init=False, compare=False)
    _moved: dict[tuple[torch.device, torch.dtype], torch.Tensor] = field(
        default_factory=dict, init=False, compare=False, repr=False
    )

    def hooks(self, model: HookedMultimodal) -> list[HookPair]:
        """One hook per point.

        Raises:
            InputError: if a point does not exist or has another width, or positions are no rule.
        """
        as_rule(self.positions)
        nodes = self.points(model)
        for node in nodes:
            if node.width != len(self.vector.direction) or node.axes.split()[-1] not in ("d_model", "d_vision"):
                raise InputError(
                    f"The vector has {len(self.vector.direction)} entries, but {node.name} is [{node.axes}] with {node.width} "
                    "last; steer at points of the stream that it was made for."
                )
            if isinstance(self.gate, PointGate):
                self.gate.check(node)
        return [(node.name, self._hook(node, self.finder(model, node))) for node in nodes]

    def points(self, model: HookedMultimodal) -> Selection:
        """Where it acts."""
        return model.graph.select(self.vector.at if self.at is None else self.at)

    def everywhere(self, node: Node) -> bool:
        """All rows of towers, which have no padding; of prompts padding is left out, so that what is touched is counted."""
        return node.sequence not in GROWING and super().everywhere(node)

    def starts(self, run: Run) -> None:
        """Resolve the positions against the batch that is about to run, and forget what was touched before.

        Raises:
            InputError: for positions that name nothing in this run: generated ones in a forward pass, say.
        """
        super().starts(run)
        self.touched.forget()

    def change(self, states: Float[torch.Tensor, "*rows d_model"]) -> Float[torch.Tensor, "*rows d_model"]:
        """What stands in the place of the states."""
        raise NotImplementedError

    def acting(self) -> Float[torch.Tensor, "d_model"]:
        """The vector as it acts: as strong as it is added, or of length 1; in float32, on the CPU."""
        raise NotImplementedError

    @checked
    def direction(self, states: torch.Tensor) -> Float[torch.Tensor, "d_model"]:
        """The same where the states are and as precise; moved there once, not at every step."""
        key = (states.device, states.dtype)
        if key not in self._moved:
            self._moved[key] = self.acting().to(states)
        return self._moved[key]

    def _hook(self, node: Node, find: Finder) -> HookFunction:
        def steer(activation: torch.Tensor, hook: Any) -> torch.Tensor | None:
            where = find(activation).marks
            if where is False:
                return None
            if self.gate is not None:
                where = where & self.gate(activation).to(activation.device).bool()[..., None]
            if isinstance(where, bool):
                self.touched.count(node.name, activation.shape[:-1].numel())
                return self.change(activation)
            n_rows = int(where.expand(*activation.shape[:-1], 1).sum())
            if not n_rows:
                return None
            self.touched.count(node.name, n_rows)
            return torch.where(where, self.change(activation), activation)

        return steer


@checked
@dataclass(frozen=True)
class Steer(_Positioned):
    """Add `alpha` times a vector to the states at its point.

    Args:
        vector: the direction and its point.
        alpha: strength; 1 adds the vector as it is.
        keep_norm: give each state its own norm back, so that only its direction changes.
        positions: which positions (see `mm.positions`): `positions.last | positions.generated` steers all that predicts a
            new token, `"prompt"` leaves the answer's own tokens alone.
        at: other points than the vector's own.
        gate: act only where it says so, e.g. where a concept is active.

    Attributes:
        touched: how many steps and positions the last run changed.

    Example:
        >>> from mmlens.steering import SteeringVector
        >>> from mmlens import positions
        >>> vector = SteeringVector(model.W_U[:, 5], "blocks.3.hook_resid_post")
        >>> steer = Steer(vector, alpha=2.0, positions=positions.last | positions.generated)
        >>> with model.intervene(steer):
        ...     logits = model(batch)
        >>> print(steer.touched)
        1 positions in 1 steps
    """

    alpha: float = 1.0
    keep_norm: bool = field(default=False, kw_only=True)

    def acting(self) -> Float[torch.Tensor, "d_model"]:
        """The vector, as strong as asked for."""
        return self.alpha * self.vector.direction

    def change(self, states: Float[torch.Tensor, "*rows d_model"]) -> Float[torch.Tensor, "*rows d_model"]:
        """The states with the vector added."""
        result = states + self.direction(states)
        if not self.keep_norm:
            return result
        return result * (states.norm(dim=-1, keepdim=True) / result.norm(dim=-1, keepdim=True).clamp_min(1e-12))


@checked
@dataclass(frozen=True)
class ProjectOut(_Positioned):
    """Take a direction out of the states: what is left is orthogonal to it.

    Args:
        vector: the direction and its point.
        positions, at, gate: as for `Steer`; `at="blocks.*.hook_resid_post"` keeps the direction from being written anew.

    Attributes:
        touched: how many steps and positions the last run changed.
    """

    def acting(self) -> Float[torch.Tensor, "d_model"]:
        """The direction, of length 1."""
        return self.vector.direction / self.vector.norm

    def change(self, states: Float[torch.Tensor, "*rows d_model"]) -> Float[torch.Tensor, "*rows d_model"]:
        """The states without their part along the direction."""
        unit = self.direction(states)
        return states - (states @ unit)[..., None] * unit
