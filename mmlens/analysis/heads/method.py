"""The contract of methods that rank attention heads by how they look at pictures, and their registry."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias

import torch
from jaxtyping import Float

from mmlens.core.kinds import Accepts
from mmlens.core.registry import Method, Registry


@dataclass(frozen=True)
class HeadMethod(Method):
    """How heads are ranked: what is read of each sample's attention to its picture, and what score that makes of all."""

    def read(
        self, attention: Float[torch.Tensor, "layer head patch"], raster: Float[torch.Tensor, "layer head row column"]
    ) -> dict[str, Float[torch.Tensor, "layer head"]]:
        """What is kept of one sample.

        Args:
            attention: to each patch of the picture, in shares of the queries' attention.
            raster: the same as the picture lies; 0 where no row shows the picture.
        """
        raise NotImplementedError

    def score(
        self, readings: Mapping[str, Float[torch.Tensor, "sample layer head"]]
    ) -> tuple[Float[torch.Tensor, "layer head"], Float[torch.Tensor, "layer head"]]:
        """The scores, larger first, and what decides between equal ones, smaller first."""
        raise NotImplementedError


HEAD_METHODS: Registry[HeadMethod] = Registry("ranking heads", HeadMethod, verb="mm.rank_heads")
#: A method by name, or its settings.
HeadMethodChoice: TypeAlias = Annotated[str | HeadMethod, Accepts(Any), HEAD_METHODS.condition]
