"""The weights and the shape of a bound model, under TransformerLens's names."""

from typing import Any

from mmlens.models.bound.base import Bound


class BoundWeights(Bound):
    """The weights and the shape of a bound model's language model."""

    @property
    def cfg(self) -> Any:
        """The language model's shape."""
        return self.model.cfg
