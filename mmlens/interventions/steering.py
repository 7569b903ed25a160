"""Steering: add a direction to the stream, or take one out of it, at chosen positions and steps of a generation.

    x  ->  x + alpha * direction            (Steer)
    x  ->  x - (x . unit) unit              (ProjectOut)

Source: Khayatan et al., "Analyzing Fine-tuning Representation Shift for Multimodal LLMs Steering Alignment", ICCV 2025
(https://arxiv.org/abs/2501.03012), section on steering; directional ablation: Arditi et al., "Refusal in Language Models
Is Mediated by a Single Direction", NeurIPS 2024 (https://arxiv.org/abs/2406.11717), equation 4.
"""

import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

import torch
from jaxtyping import Float

from mmlens.core.errors import InputError
from mmlens.core.names import Names
from mmlens.hooks.nodes import Node, Selection
from mmlens.hooks.session import HookFunction, HookPair
from mmlens.inputs.batch import MultimodalBatch
from mmlens.interventions.passes import GROWING, ResolvedPositions
from mmlens.interventions.positioned import Finder, PositionedIntervention, require_forward
from mmlens.interventions.steering_vector import SteeringVector
from mmlens.models.hooked import HookedMultimodal
from mmlens.models.run import Run

#: Where a steering vector acts. `"all"`: every position of the prompt and every new token; `"prompt"`: the prompt alone;
#: `"generated"`: new tokens alone; `"last_prompt"`: the last position of the prompt and every new token; `"text"` and `"image"`:
#: these positions of the prompt, and for `"text"` every new token too; a slice: positions counted from the start of the prompt
#: (negative ones from its end), new tokens following the prompt's.
SteeredPositions: TypeAlias = Literal["all", "prompt", "generated", "last_prompt", "text", "image"] | slice

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


def steered(positions: SteeredPositions, batch: MultimodalBatch, sequence: str, length: int) -> ResolvedPositions:
    """The positions that a steering rule means in a batch; padding is none of them.

    Args:
        positions: the rule.
        batch: the batch.
        sequence: `"language"` (the prompt), or `"decoder"` (what an encoder-decoder model writes).
        length: positions that the sequence starts from.
    """
    layout, new = batch.layout, range(length, sys.maxsize)
    image = layout.is_image if sequence == "language" else torch.zeros(batch.size, length, dtype=torch.bool)
    real = layout.is_token if sequence == "language" else ~image
    if isinstance(positions, slice):
        start, stop, step = positions.indices(length)
        if positions.start is not None and positions.start > length:
            start = positions.start
        if positions.stop is None or positions.stop > length:
            stop = sys.maxsize if positions.stop is None else positions.stop
        meant = range(start, stop, step)
        return ResolvedPositions(real & torch.tensor([at in meant for at in range(length)]), meant)
    if positions == "last_prompt":
        ends = layout.last if sequence == "language" else torch.full((batch.size,), length - 1)
        return ResolvedPositions(torch.arange(length) == ends[:, None], new)
    none = torch.zeros_like(real)
    words = {
        "all": ResolvedPositions(real, new),
        "prompt": ResolvedPositions(real),
        "generated": ResolvedPositions(none, new),
        "text": ResolvedPositions(real & ~image, new),
        "image": ResolvedPositions(image),
    }
    return words[positions]


@dataclass(frozen=True)
class _Positioned(PositionedIntervention):
    """What steering interventions share: when and where they act, and the record of it."""

    vector: SteeringVector
    positions: SteeredPositions = field(default="all", kw_only=True)
    at: Names | Selection | None = field(default=None, kw_only=True)
    gate: Gate | None = field(default=None, kw_only=True, repr=False)
    touched: Touched = field(default_factory=Touched, init=False, compare=False)
    _moved: dict[tuple[torch.device, torch.dtype], torch.Tensor] = field(
        default_factory=dict, init=False, compare=False, repr=False
    )

    def hooks(self, model: HookedMultimodal) -> list[HookPair]:
        """One hook per point.

        Raises:
            InputError: if a point does not exist, has another width, or lives on a sequence where the positions mean nothing.
        """
        words = ("all", "prompt", "generated", "last_prompt", "text", "image")
        if not isinstance(self.positions, slice) and self.positions not in words:
            raise InputError(f"positions={self.positions!r} must be a slice or one of {', '.join(map(repr, words))}.")
        require_forward(self.positions)
        nodes = self.points(model)
        for node in nodes:
            if node.width != len(self.vector.direction) or node.axes.split()[-1] not in ("d_model", "d_vision"):
                raise InputError(
                    f"The vector has {len(self.vector.direction)} entries, but {node.name} is [{node.axes}] with {node.width} "
                    "last; steer at points of the stream that it was made for."
                )
            if self.everywhere(node) and self.positions != "all":
                raise InputError(
                    f"positions={self.positions!r} has no meaning at {node.name}, on the sequence {node.sequence}; use 'all'."
                )
            if isinstance(self.gate, PointGate):
                self.gate.check(node)
        return [(node.name, self._hook(node, self.finder(model, node))) for node in nodes]

    def points(self, model: HookedMultimodal) -> Selection:
        """Where it acts."""
        return model.graph.select(self.vector.at if self.at is None else self.at)

    def everywhere(self, node: Node) -> bool:
        """Rows of towers are all meant: they have no padding, and nothing is generated there."""
        return node.sequence not in GROWING

    def starts(self, run: Run) -> None:
        """Resolve the positions against the batch that is about to run, and forget what was touched before.

        Raises:
            InputError: for positions that name nothing in this run: generated ones in a forward pass, say.
        """
        if run.kind == "forward" and self.positions == "generated":
            raise InputError(
                "positions='generated' means the tokens of model.generate(...), and a forward pass has none; pass the slice of "
                "positions that you mean, e.g. slice(prompt_length, None)."
            )
        if self.positions == "generated" and run.options.get("max_new_tokens") == 1:
            raise InputError(
                "positions='generated' with max_new_tokens=1 would do nothing: the one new token is predicted by the prompt's "
                "last position. Use positions='last_prompt', or generate more tokens."
            )
        super().starts(run)
        self.touched.forget()

    def reached(self, run: Run, node: Node, length: int) -> ResolvedPositions:
        """The positions of the run that the rule means."""
        found = steered(self.positions, run.batch, node.sequence, length)
        empty = (~found.prompt.any(1)).nonzero().flatten().tolist()
        if run.kind == "generate":
            # the last of the new tokens is written and not read
            end = length - 1 + (run.options.get("max_new_tokens") or sys.maxsize)
            before = -(-max(length - found.new.start, 0) // found.new.step)
            if found.new.start + before * found.new.step < min(end, found.new.stop):
                return found
        if len(empty) == len(found.prompt) or (empty and not isinstance(self.positions, slice)):
            raise InputError(
                f"positions={self.positions!r} names nothing in samples {empty} at {node.name}, on the {node.sequence} "
                f"sequence of {length} positions."
            )
        return found

    def change(self, states: Float[torch.Tensor, "*rows d_model"]) -> Float[torch.Tensor, "*rows d_model"]:
        """What stands in the place of the states."""
        raise NotImplementedError

    def acting(self) -> Float[torch.Tensor, "d_model"]:
        """The vector as it acts: as strong as it is added, or of length 1; in float32, on the CPU."""
        raise NotImplementedError

    def direction(self, states: torch.Tensor) -> Float[torch.Tensor, "d_model"]:
        """The same where the states are and as precise; moved there once, not at every step."""
        kept = (states.device, states.dtype)
        if kept not in self._moved:
            self._moved[kept] = self.acting().to(states)
        return self._moved[kept]

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
            touched = int(where.expand(*activation.shape[:-1], 1).sum())
            if not touched:
                return None
            self.touched.count(node.name, touched)
            return torch.where(where, self.change(activation), activation)

        return steer


@dataclass(frozen=True)
class Steer(_Positioned):
    """Add `alpha` times a vector to the states at its point.

    Args:
        vector: the direction and its point.
        alpha: strength; 1 adds the vector as it is.
        keep_norm: give each state its own norm back, so that only its direction changes.
        positions: see `SteeredPositions`.
        at: other points than the vector's own.
        gate: act only where it says so, e.g. where a concept is active.

    Attributes:
        touched: how many steps and positions the last run changed.

    Example:
        >>> from mmlens import SteeringVector
        >>> vector = SteeringVector(model.W_U[:, 5], "blocks.3.hook_resid_post")
        >>> steer = Steer(vector, alpha=2.0, positions="last_prompt")
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
        moved = states + self.direction(states)
        if not self.keep_norm:
            return moved
        return moved * (states.norm(dim=-1, keepdim=True) / moved.norm(dim=-1, keepdim=True).clamp_min(1e-12))


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
