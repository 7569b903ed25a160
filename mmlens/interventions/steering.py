"""Steering: add a direction to the stream, or take one out of it, at chosen positions and steps of a generation.

    x  ->  x + alpha * direction                            (Steer)
    x  ->  |x| unit( unit(x) + alpha * unit(direction) )    (Steer, scale="relative")
    x  ->  x - (x . unit) unit                              (ProjectOut)

Source: Khayatan et al., "Analyzing Fine-tuning Representation Shift for Multimodal LLMs Steering Alignment", ICCV 2025
(https://arxiv.org/abs/2501.03012), section on steering; directional ablation: Arditi et al., "Refusal in Language Models
Is Mediated by a Single Direction", NeurIPS 2024 (https://arxiv.org/abs/2406.11717), equation 4.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

import torch
from jaxtyping import Float

from mmlens.core.contract import checked
from mmlens.core.errors import InputError
from mmlens.core.names import Names
from mmlens.core.rules import as_rule
from mmlens.hooks.nodes import Node, Selection
from mmlens.hooks.session import HookFunction, HookPair
from mmlens.inputs.point_rows import GROWING
from mmlens.interventions.positioned import Finder, PositionedIntervention, RowMask, per_entry
from mmlens.interventions.steering_table import SteeringTable
from mmlens.interventions.steering_vector import SteeringVector
from mmlens.interventions.touched import Touched
from mmlens.interventions.vector_predictor import VectorPredictor, predict_apart, reader_of
from mmlens.models.hooked import HookedMultimodal
from mmlens.models.run import Run

#: Says at which positions to act, given the states `[batch pos d_model]` there: `[batch pos]`.
Gate: TypeAlias = Callable[[torch.Tensor], torch.Tensor]


#: How strong a steering vector acts. `"absolute"`: as it is, times alpha. `"relative"`: along its direction, alpha times the
#: length of the state, which keeps its length (VTI). `"adaptive"`: the same, alpha times `1 + max(0, -cos(state, direction))`,
#: up to twice as strong where a state points the other way (VISTA).
SteeringScale: TypeAlias = Literal["absolute", "relative", "adaptive"]


class Directed(Protocol):
    """What says which way to steer: where it was made, and how wide its directions are."""

    @property
    def at(self) -> str: ...
    @property
    def width(self) -> int: ...


@runtime_checkable
class PointGate(Protocol):
    """A gate that belongs to certain points, and says so before any run."""

    def check(self, node: Node) -> None:
        """Refuse a point whose states the gate cannot read; raises InputError."""


@dataclass(frozen=True)
class _Positioned(PositionedIntervention):
    """What steering interventions share: when and where they act, and the record of it."""

    vector: Directed
    at: Names | Selection | None = field(default=None, kw_only=True)
    gate: Gate | None = field(default=None, kw_only=True, repr=False)
    touched: Touched = field(default_factory=Touched, init=False, compare=False, repr=False)
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
            if node.width != self.vector.width or node.axes.split()[-1] not in ("d_model", "d_vision"):
                raise InputError(
                    f"The vector has {self.vector.width} entries, but {node.name} is [{node.axes}] with {node.width} "
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
        if run.branch == "conditional":
            self.touched.forget()

    def change(self, states: Float[torch.Tensor, "*rows d_model"]) -> Float[torch.Tensor, "*rows d_model"]:
        """What stands in the place of the states."""
        raise NotImplementedError

    @property
    def common_vector(self) -> SteeringVector:
        """The vector, where all rows have the same.

        Raises:
            InputError: where samples or rows have vectors of their own.
        """
        if not isinstance(self.vector, SteeringVector):
            raise InputError(
                f"{self.vector!r} holds no one direction, which this compares or plots; pass Steer(SteeringVector(...)), e.g. "
                "table.mean."
            )
        return self.vector

    def changed(self, activation: torch.Tensor, found: RowMask, node: Node) -> torch.Tensor:
        """What stands in the place of an activation, at every position."""
        return self.change(activation)

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
            found = find(activation)
            where = found.marks
            if where is False:
                if found.run is not None and found.run.window is not None:
                    self.touched.count(found, node, None)
                return None
            if self.gate is not None:
                where = where & self.gate(activation).to(activation.device).bool()[..., None]
            rows = torch.as_tensor(where, device=activation.device).expand(*activation.shape[:-1], 1)
            self.touched.count(found, node, rows)
            if where is True:
                return self.changed(activation, found, node)
            return torch.where(where, self.changed(activation, found, node), activation) if rows.any() else None

        return steer


@checked
@dataclass(frozen=True)
class Steer(_Positioned):
    """Add `alpha` times a vector to the states at its point.

    Args:
        vector: the direction and its point; or one per sample of the batch, or per row of a tower (`mm.steering.SteeringTable`);
            or what predicts each sample's from a state of its prompt (`mm.steering.learn_predictor`).
        alpha: strength; 1 adds the vector as it is.
        scale: what alpha is counted in, the vector's own length or the state's; see `SteeringScale`.
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

    Source of the relative scale: Liu, Ye and Zou, "Reducing Hallucinations in Vision-Language Models via Latent Space Steering",
    ICLR 2025 (https://arxiv.org/abs/2410.15778), whose code has a further factor of 0.1; of the adaptive one: Li et al., "The
    Hidden Life of Tokens: Reducing Hallucination of Large Vision-Language Models via Visual Information Steering", ICML 2025
    (https://arxiv.org/abs/2502.03628). Both write to `blocks.*.hook_mlp_out` what they measured in the residual stream: pass
    `at=`.
    """

    vector: SteeringVector | SteeringTable | VectorPredictor
    alpha: float = 1.0
    scale: SteeringScale = field(default="absolute", kw_only=True)
    keep_norm: bool = field(default=False, kw_only=True)

    def hooks(self, model: HookedMultimodal) -> list[HookPair]:
        """One hook per point, behind the one that reads what a predictor needs.

        Raises:
            InputError: as for every intervention; for rows that the points of a table do not have.
        """
        pairs = super().hooks(model)
        if isinstance(self.vector, SteeringTable):
            for node in self.points(model):
                self.vector.check(node)
        if isinstance(self.vector, VectorPredictor):
            self.vector.check(model, self.points(model))
            if self.vector.precedes(model, self.points(model)):
                pairs.insert(0, (self.vector.read_at, reader_of(model, self.vector)))
        return pairs

    def starts(self, run: Run) -> None:
        """Resolve the positions; have a predictor whose state lies behind what is steered read it in a pass of its own.

        Raises:
            InputError: for positions that name nothing, or a table for other samples than those that run.
        """
        super().starts(run)
        if isinstance(self.vector, SteeringTable):
            self.vector.require_samples(run.batch)
        if isinstance(self.vector, VectorPredictor) and not self.vector.precedes(run.model, self.points(run.model)):
            predict_apart(run, self.vector)

    def everywhere(self, node: Node) -> bool:
        """As of every steering; directions that differ from row to row need the run."""
        return isinstance(self.vector, SteeringVector) and super().everywhere(node)

    def acting(self) -> Float[torch.Tensor, "d_model"]:
        """The vector: as strong as asked for, or of length 1 where alpha counts the states' length."""
        vector = self.common_vector
        return self.alpha * vector.direction if self.scale == "absolute" else vector.direction / vector.norm

    def change(self, states: Float[torch.Tensor, "*rows d_model"]) -> Float[torch.Tensor, "*rows d_model"]:
        """The states with the vector added."""
        return self._moved_by(states, self.direction(states))

    def changed(self, activation: torch.Tensor, found: RowMask, node: Node) -> torch.Tensor:
        """The states with each row's own vector added."""
        if isinstance(self.vector, SteeringVector):
            return self.change(activation)
        run = found.run
        if run is None:
            raise InputError(
                f"{self.vector!r} belongs to the samples of a run, and there is none; call the hooked model."
            )
        if isinstance(self.vector, SteeringTable):
            directions = self.vector.directions(run, node, activation)
        else:
            by_sample = self.vector.directions(run)
            directions = per_entry(by_sample, len(activation), node, run)[:, None].to(activation.device)
        if self.scale == "absolute":
            return self._moved_by(activation, self.alpha * directions.to(activation.dtype))
        lengths = directions.norm(dim=-1, keepdim=True)
        return self._moved_by(activation, directions / lengths.clamp_min(1e-12))

    def _moved_by(self, states: torch.Tensor, directions: torch.Tensor) -> torch.Tensor:
        """States moved by directions: as they are, or of length 1 by as much as the scale says."""
        if self.scale == "absolute":
            result = states + directions
            if not self.keep_norm:
                return result
            return result * (states.norm(dim=-1, keepdim=True) / result.norm(dim=-1, keepdim=True).clamp_min(1e-12))
        if not self.alpha:
            return states
        exact, lengths = states.float(), states.float().norm(dim=-1, keepdim=True)
        units, directions = exact / lengths.clamp_min(1e-12), directions.float()
        strength: float | torch.Tensor = self.alpha
        if self.scale == "adaptive":
            strength = self.alpha * (1 - (units * directions).sum(-1, keepdim=True).clamp(max=0))
        moved = units + strength * directions
        return (moved * (lengths / moved.norm(dim=-1, keepdim=True).clamp_min(1e-12))).to(states.dtype)


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

    vector: SteeringVector

    def acting(self) -> Float[torch.Tensor, "d_model"]:
        """The direction, of length 1."""
        return self.vector.direction / self.vector.norm

    def change(self, states: Float[torch.Tensor, "*rows d_model"]) -> Float[torch.Tensor, "*rows d_model"]:
        """The states without their part along the direction."""
        unit = self.direction(states)
        return states - (states @ unit)[..., None] * unit
