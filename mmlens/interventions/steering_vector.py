"""A steering vector: a direction in the stream at a point, with where it came from."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float

from mmlens.core.contract import checked
from mmlens.core.errors import InputError
from mmlens.core.kinds import Seed
from mmlens.core.saved import Saved
from mmlens.core.view import Viewable

if TYPE_CHECKING:
    import pandas as pd


@checked
@dataclass(frozen=True)
class SteeringVector(Viewable, Saved):
    """A direction to add at a point: from what the states are to what they should be.

    Attributes:
        direction: `[d_model]`, in the unit of the stream. Added with a positive alpha it leads from source to target.
        at: the hook point whose states it was made from.
        provenance: how it was made: method, model class and fingerprint, hashes of the samples on both sides, counts.

    Example:
        >>> vector = SteeringVector(model.W_U[:, 3], "blocks.4.hook_resid_post")
        >>> (-vector).direction.equal(-vector.direction), round(vector.random(seed=1).norm / vector.norm, 4)
        (True, 1.0)
    """

    direction: Float[torch.Tensor, "d_model"]
    at: str
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        direction = self.direction.detach().float().cpu()
        if direction.ndim != 1 or not torch.isfinite(direction).all() or not direction.any():
            raise InputError(
                "A steering vector must be one finite direction [d_model] that is not zero, found shape "
                f"{list(direction.shape)} and norm {float(direction.norm()):.3g}. Zero means that source and target have the "
                "same mean."
            )
        object.__setattr__(self, "direction", direction)

    def __repr__(self) -> str:
        method = self.provenance.get("method")
        return f"SteeringVector({self.at}, [{len(self.direction)}], norm {self.norm:.3f}" + (
            f", {method})" if method else ")"
        )

    def __neg__(self) -> "SteeringVector":
        return replace(self, direction=-self.direction)

    def to_frame(self) -> "pd.DataFrame":
        """A row per entry: its number, and its value in the unit of the stream."""
        import pandas as pd

        return pd.DataFrame({"entry": range(self.width), "value": self.direction.tolist()})

    @property
    def width(self) -> int:
        """How many entries it has."""
        return len(self.direction)

    @property
    def norm(self) -> float:
        """Its length, in the unit of the stream."""
        return float(self.direction.norm())

    @checked
    def random(self, *, seed: Seed) -> "SteeringVector":
        """A random direction of the same norm at the same point, any as likely as any other: the weakest control.

        Args:
            seed: of the draw.
        """
        direction = torch.randn(len(self.direction), generator=torch.Generator().manual_seed(seed))
        return self.with_direction(direction, "random direction of equal norm", seed)

    @checked
    def with_direction(
        self, direction: Float[torch.Tensor, "d_model"], method: str, seed: Seed | None = None
    ) -> "SteeringVector":
        """Another direction at the same point, made as long as this one: a control.

        Args:
            direction: of any norm but 0.
            method: how it was made, for its provenance.
            seed: of its draw, where it was drawn.
        """
        provenance = {"method": method} | ({} if seed is None else {"seed": seed})
        return replace(self, direction=direction * (self.norm / direction.norm()), provenance=provenance)
