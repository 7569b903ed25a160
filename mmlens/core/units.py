"""Small value types that name places in a model: neurons, heads, positions."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch

from mmlens.core.names import Part, part_prefix

#: Which positions of a sequence are meant: a word of the token layout, indices, a slice, or a tensor of indices.
Positions: TypeAlias = Literal["all", "image", "text", "last"] | int | slice | Sequence[int] | torch.Tensor


@dataclass(frozen=True, order=True)
class Neuron:
    """One hidden neuron of an MLP: a row of `W_out` and the multiplier that `mlp.hook_post` holds for it.

    Attributes:
        layer: block number within the part.
        index: row of `W_out`, i.e. position along the last axis of `mlp.hook_post`.
        part: the tower.
        stack: which list of blocks the layer counts in; empty for a projector's own hidden layer (its layer is 0).

    Example:
        >>> print(Neuron(3, 127), Neuron(3, 127).hook)
        L3.u127 blocks.3.mlp.hook_post
        >>> print(Neuron(0, 5, "projector", stack=""), Neuron(0, 5, "projector", stack="").hook)
        projector.u5 projector.mlp.hook_post
    """

    layer: int
    index: int
    part: Part = "language"
    stack: str = "blocks"

    @property
    def hook(self) -> str:
        """Name of the hook point whose last axis holds this neuron."""
        return f"{part_prefix(self.part)}{f'{self.stack}.{self.layer}.' if self.stack else ''}mlp.hook_post"

    def __str__(self) -> str:
        if not self.stack:
            return f"{part_prefix(self.part)}u{self.index}"
        stack = "" if self.stack == "blocks" else f"{self.stack}."
        return f"{part_prefix(self.part)}{stack}L{self.layer}.u{self.index}"


@dataclass(frozen=True, order=True)
class Head:
    """One attention head.

    Attributes:
        layer: block number within the part.
        index: head number.
        part: the tower.
    """

    layer: int
    index: int
    part: Part = "language"

    @property
    def hook(self) -> str:
        """Name of the hook point that holds this head's output before `W_O`."""
        return f"{part_prefix(self.part)}blocks.{self.layer}.attn.hook_z"

    def __str__(self) -> str:
        return f"{part_prefix(self.part)}L{self.layer}.h{self.index}"
