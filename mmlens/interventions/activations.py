"""Interventions on a point's activation: replace, add, scale, noise, clamp.

Each is a value: it says what it would do, and `with model.intervene(...)` does it, in forward passes and in generation.
Positions are rules (`mm.positions`), resolved when a run starts for the batch that runs; a run in which they name nothing is
refused. `positions="all"`, the default, reaches every position and, in generation, every new token.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float

from mmlens.core.contract import checked
from mmlens.core.errors import InputError
from mmlens.core.kinds import Positive, Seed
from mmlens.core.tensor_kinds import Vector
from mmlens.hooks.nodes import Node
from mmlens.hooks.session import HookFunction
from mmlens.inputs.point_rows import GROWING
from mmlens.inputs.positions import ResolvedPositions, resolve
from mmlens.interventions.positioned import AtPoints, Finder
from mmlens.models.run import Run


@checked
@dataclass(frozen=True)
class Replace(AtPoints):
    """Put given values in the place of a point's activation at some positions.

    Args:
        at: hook name.
        values: a whole activation of that point, of the same shape as in the run to come.
        positions: which positions; all of the prompt by default. New tokens of a generation are left alone.

    Example:
        >>> _, cache = model.run_with_cache(batch, names="hook_embed")
        >>> with model.intervene(Replace("hook_embed", 0 * cache["hook_embed"], positions="image")):
        ...     blind = model(batch)
    """

    values: torch.Tensor = field(repr=False)

    def check(self, node: Node) -> None:
        """The values must have the point's axes and width."""
        if self.values.ndim != len(node.axes.split()) or (
            node.width is not None and self.values.shape[-1] != node.width
        ):
            raise InputError(
                f"values for {node.name} must be [{node.axes}] with {node.width} last, found {list(self.values.shape)}."
            )

    def everywhere(self, node: Node) -> bool:
        """Never: values are those of the prompt."""
        return False

    def reached(self, run: Run, node: Node, shape: Sequence[int] | None) -> ResolvedPositions:
        """The positions of the prompt that the rule means; the values must be of that prompt."""
        resolved = resolve(self.rule, run.batch, node, shape)
        if node.sequence not in GROWING:
            return resolved
        length, n_forced = resolved.point.extent, resolved.forced.shape[1]
        sizes = self.values.shape[0], self.values.shape[node.position_axis]
        if sizes not in ((run.batch.size, length), (run.batch.size, length + n_forced)):
            raise InputError(
                f"values for {node.name} are {list(self.values.shape)} [{node.axes}], and the batch that runs has "
                f"{run.batch.size} samples of {length} positions there{f' and {n_forced} new ones' if n_forced else ''}."
            )
        if sizes[1] == length and not any(map(len, resolved.numbers)):
            raise InputError(
                f"{self.rule!r} names what was written behind the prompt, and values for {node.name} are of the prompt's "
                f"{length} positions alone."
            )
        return resolved

    def _hook(self, node: Node, find: Finder) -> HookFunction:
        axis = node.position_axis

        def replace(activation: torch.Tensor, hook: Any) -> torch.Tensor | None:
            rows = find(activation)
            grows, length = node.sequence in GROWING, self.values.shape[axis]
            if rows.marks is False or (grows and rows.first >= length):
                return None
            # without a KV cache a step of a generation holds the prompt and what was written since
            count = activation.shape[axis]
            last = min(rows.first + count, length) if grows else count
            shape = list(activation.shape)
            shape[axis] = length if grows else count
            if list(self.values.shape) != shape:
                raise InputError(
                    f"values for {node.name} are {list(self.values.shape)}, the run's activation {list(activation.shape)}."
                )
            new = self.values.to(activation).narrow(axis, rows.first, last - rows.first)
            rest = activation.narrow(axis, last - rows.first, count - (last - rows.first))
            return rows.put(activation, torch.cat([new, rest], dim=axis))

        return replace


@checked
@dataclass(frozen=True)
class Add(AtPoints):
    """Add a vector: `x + alpha * direction`.

    Args:
        at: hook names.
        direction: as wide as the points' last axis.
        alpha: its strength.
        positions: which positions; `"all"` (the default) means every step of a generation too.

    Example:
        >>> with model.intervene(Add("blocks.1.hook_resid_post", model.W_U[:, 5], alpha=2.0)):
        ...     logits = model(batch)
    """

    direction: Vector = field(repr=False)
    alpha: float = 1.0

    def check(self, node: Node) -> None:
        """The direction must be as wide as the point."""
        if self.direction.ndim != 1 or len(self.direction) != node.width:
            raise InputError(
                f"direction must be one vector as wide as {node.name} [{node.axes}], {node.width}; found shape "
                f"{list(self.direction.shape)}."
            )

    def change(self, activation: torch.Tensor, node: Node) -> torch.Tensor:
        """The activation with the vector added."""
        return activation + self.alpha * self.direction.to(activation)


@checked
@dataclass(frozen=True)
class Scale(AtPoints):
    """Multiply by a factor: `factor * x`.

    Args:
        at: hook names.
        factor: the multiplier.
        positions: which positions; `"all"` (the default) means every step of a generation too.

    Example:
        >>> with model.intervene(Scale("blocks.1.hook_mlp_out", 0.5, positions="image")):
        ...     logits = model(batch)
    """

    factor: float

    def change(self, activation: torch.Tensor, node: Node) -> torch.Tensor:
        """The activation, multiplied."""
        return self.factor * activation


@checked
@dataclass(frozen=True)
class Clamp(AtPoints):
    """Keep values within bounds.

    Args:
        at: hook names.
        low: lower bound; None for none.
        high: upper bound; None for none.
        positions: which positions; `"all"` (the default) means every step of a generation too.

    Example:
        >>> with model.intervene(Clamp("blocks.*.mlp.hook_post", high=1.0)):
        ...     logits = model(batch)
    """

    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        if self.low is None and self.high is None:
            raise InputError("Clamp was given neither low nor high.")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise InputError(f"Clamp needs low <= high, found low={self.low} and high={self.high}.")

    def change(self, activation: torch.Tensor, node: Node) -> torch.Tensor:
        """The activation within its bounds."""
        return activation.clamp(self.low, self.high)


@checked
@dataclass(frozen=True)
class Noise(AtPoints):
    """Add Gaussian noise of a given standard deviation: `x + sigma * e`, `e ~ N(0, 1)`.

    The noise is drawn anew from the seed in every pass, differently at every point, so that a run can be repeated.

    Args:
        at: hook names.
        sigma: standard deviation, in the activation's own unit.
        seed: of the noise.
        positions: which positions; `"all"` (the default) means every step of a generation too.

    Example:
        >>> with model.intervene(Noise("hook_embed", sigma=0.1, seed=1, positions="image")):
        ...     logits = model(batch)
    """

    sigma: Positive
    seed: Seed = 0

    def change(self, activation: torch.Tensor, node: Node) -> torch.Tensor:
        """The activation with noise on it."""
        return activation + self.sigma * gaussian(activation, self.seed, node.name)


def gaussian(like: torch.Tensor, seed: int, name: str) -> torch.Tensor:
    """Standard normal numbers of a tensor's shape, decided by a seed and a name.

    Drawn on the CPU in float32, so that every device and dtype gets the same.
    """
    generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {name}".encode()))  # 32 bits are all that count
    return torch.randn(like.shape, generator=generator).to(like)


def spread(values: Float[torch.Tensor, "... d_model"]) -> float:
    """The standard deviation of embeddings: of all numbers around the mean vector; the unit of noise on them.

    Args:
        values: embeddings, one per row.
    """
    rows = values.reshape(-1, values.shape[-1]).float()
    return float((rows - rows.mean(0)).pow(2).mean().sqrt())
