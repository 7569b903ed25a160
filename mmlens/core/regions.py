"""Rules of positions that name a part of a picture."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch

from mmlens.core.rules import Rule

#: (left, top, right, bottom) in pixels of the user's picture; right and bottom are outside.
Box: TypeAlias = tuple[float, float, float, float]


@dataclass(frozen=True, eq=False)
class Mask:
    """The pixels of a region, `[height width]`; equal to itself alone.

    Attributes:
        inside: True at its pixels.
    """

    inside: torch.Tensor


@dataclass(frozen=True, repr=False)
class Region(Rule):
    """The patches that a part of the picture falls on, in whatever tower the point lies in.

    A box names every patch that it touches; a mask those of which it covers half, or else the one that it covers most.

    Attributes:
        areas: a box or mask for all samples, or with `per_sample` one for each (None: nothing in that sample).
        image: which of the sample's pictures.
        frame: which frame of a video; None for all.
        per_sample: whether each sample has its own.
        kind: how it was made: `"box"`, `"mask"` or `"object"`.
    """

    areas: tuple[Box | Mask | None, ...]
    image: int = 0
    frame: int | None = None
    per_sample: bool = False
    kind: Literal["box", "mask", "object"] = "box"

    def __str__(self) -> str:
        if self.per_sample or not isinstance(self.areas[0], tuple):
            return self.kind
        return f"box{tuple(int(end) if end == int(end) else round(end, 2) for end in self.areas[0])}"

    def __repr__(self) -> str:
        areas = [tuple(area.inside.shape) if isinstance(area, Mask) else area for area in self.areas]
        more = f", image={self.image}" if self.image else ""
        more += "" if self.frame is None else f", frame={self.frame}"
        return f"positions.{self.kind}({areas if self.per_sample else areas[0]}{more})"
