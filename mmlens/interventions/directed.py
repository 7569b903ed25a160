"""What interventions along a direction share: when and where they act, the direction as states have it, and the record."""

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
from mmlens.interventions.touched import Touched
from mmlens.models.hooked import HookedMultimodal
from mmlens.models.run import Run

#: Says at which positions to act, given the states `[batch pos d_model]` there: `[batch pos]`.
Gate: TypeAlias = Callable[[torch.Tensor], torch.Tensor]


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
class DirectedIntervention(PositionedIntervention):
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
