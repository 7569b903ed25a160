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
from mmlens.interventions.positioned import Finder, PositionedIntervention, RowMask
from mmlens.interventions.steering_vector import SteeringVector
from mmlens.models.hooked import HookedMultimodal
from mmlens.models.run import Branch, Run, Window

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

    A position counts once, in however many passes it is computed anew (without a KV cache), and not if it was taken back
    (candidates that assisted generation rejects).
    """

    _rows: dict[tuple[Branch, str], list[int]] = field(default_factory=dict, repr=False)
    _windows: dict[Branch, Window] = field(default_factory=dict, repr=False)
    _passes: Counter[tuple[Branch, str]] = field(default_factory=Counter, repr=False)

    @property
    def tokens(self) -> int:
        """Positions, summed over samples (each beam of them), points and branches of a generation."""
        return sum(self.branches.values())

    @property
    def branches(self) -> dict[Branch, int]:
        """Positions by branch of a generation; conditional ones alone but where an intervention acts in all passes."""
        counts: Counter[Branch] = Counter()
        for (branch, _), rows in self._rows.items():
            window = self._windows.get(branch)
            counts[branch] += sum(rows if window is None or window.kept is None else rows[: window.kept])
        return dict(counts)

    @property
    def steps(self) -> int:
        """Forward passes in which something was changed."""
        return max(self._passes.values(), default=0)

    def count(self, where: RowMask, node: Node, changed: torch.Tensor | None) -> None:
        """Note how a pass changed a point.

        Args:
            where: the rows of the pass that were meant.
            node: the point.
            changed: `[... pos ...]` true at rows that were changed; None for none, where an earlier pass may be taken back.
        """
        run = where.run
        branch: Branch = "conditional" if run is None else run.branch
        key, grows = (branch, node.name), node.sequence in GROWING
        if changed is None:
            counts = []
        elif grows:
            axis = node.position_axis
            counts = changed.sum([i for i in range(changed.ndim) if i != axis]).tolist()
        else:
            counts = [int(changed.sum())]
        if any(counts):
            self._passes[key] += 1
        rows = self._rows.setdefault(key, [])
        if grows:
            rows[where.first :] = []
            rows += [0] * (where.first - len(rows))
            if run is not None and run.window is not None:
                self._windows[branch] = run.window
        rows += counts  # a tower reads its pictures once, maybe in several calls

    def forget(self) -> None:
        """Begin anew."""
        self._rows.clear()
        self._windows.clear()
        self._passes.clear()

    def __str__(self) -> str:
        return f"{self.tokens} positions in {self.steps} steps"


@dataclass(frozen=True)
class _Positioned(PositionedIntervention):
    """What steering interventions share: when and where they act, and the record of it."""

    vector: SteeringVector
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
        if run.branch == "conditional":
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
                return self.change(activation)
            return torch.where(where, self.change(activation), activation) if rows.any() else None

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
