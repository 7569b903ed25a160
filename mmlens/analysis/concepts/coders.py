"""Coders: what turns a state into how much of each concept it holds, and back; one contract for every method.

codes = coder.encode(states)        # [sample concept]
states ~ coder.decode(codes)        # [sample d_model]
coder.activations(states)           # graded: how strongly each concept is active, for ranking samples
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float

from mmlens.analysis.concepts.semi_nmf import nonnegative_codes

_ROWS = 4096  # samples at a time


class Coder(Protocol):
    """What every method of decomposition comes to."""

    @property
    def vectors(self) -> Float[torch.Tensor, "concept d_model"]:
        """What each concept adds to a state."""

    def encode(self, values: Float[torch.Tensor, "sample d_model"]) -> Float[torch.Tensor, "sample concept"]:
        """How much of each concept a state holds."""

    def decode(self, codes: Float[torch.Tensor, "sample concept"]) -> Float[torch.Tensor, "sample d_model"]:
        """The states that codes stand for."""

    def activations(
        self, values: Float[torch.Tensor, "sample d_model"], codes: Float[torch.Tensor, "sample concept"] | None = None
    ) -> Float[torch.Tensor, "sample concept"]:
        """How strongly each concept is active; the codes, unless these only say yes or no.

        Args:
            values: the states.
            codes: theirs, where they are known already.
        """


@dataclass(frozen=True)
class NonNegative:
    """Sums of vectors with weights that are not negative: `argmin over v >= 0 of ||z - U v||^2 + penalty * sum(v)`.

    Attributes:
        vectors: the dictionary.
        penalty: lambda; 0 for NMF.
    """

    vectors: Float[torch.Tensor, "concept d_model"]
    penalty: float = 1.0

    def encode(self, values: Float[torch.Tensor, "sample d_model"]) -> Float[torch.Tensor, "sample concept"]:
        """The best weights."""
        vectors = self.vectors.to(values.device)
        return nonnegative_codes(vectors @ vectors.T, vectors @ values.to(vectors.dtype).T, self.penalty).T

    def decode(self, codes: Float[torch.Tensor, "sample concept"]) -> Float[torch.Tensor, "sample d_model"]:
        """The weighted sums."""
        return codes @ self.vectors.to(codes.device)

    def activations(
        self, values: Float[torch.Tensor, "sample d_model"], codes: Float[torch.Tensor, "sample concept"] | None = None
    ) -> Float[torch.Tensor, "sample concept"]:
        """The codes."""
        return self.encode(values) if codes is None else codes


@dataclass(frozen=True)
class Nearest:
    """One vector per state: the nearest. Codes are 1 for it and 0 for the others; activations are `1 / (1 + distance)`.

    Attributes:
        vectors: the centres, or the chosen samples.
    """

    vectors: Float[torch.Tensor, "concept d_model"]

    def _distances(self, values: torch.Tensor) -> torch.Tensor:
        vectors = self.vectors.to(values.device)
        # by differences: products of long states lose the digits that tell near centres apart
        exact = "donot_use_mm_for_euclid_dist"
        pieces = [torch.cdist(chunk.to(vectors.dtype), vectors, compute_mode=exact) for chunk in values.split(_ROWS)]
        return torch.cat(pieces) if pieces else values.new_zeros(0, len(vectors))

    def encode(self, values: Float[torch.Tensor, "sample d_model"]) -> Float[torch.Tensor, "sample concept"]:
        """1 for the nearest."""
        distances = self._distances(values)
        return torch.nn.functional.one_hot(distances.argmin(1), distances.shape[1]).to(distances.dtype)

    def decode(self, codes: Float[torch.Tensor, "sample concept"]) -> Float[torch.Tensor, "sample d_model"]:
        """The nearest vector."""
        return codes @ self.vectors.to(codes.device)

    def activations(
        self, values: Float[torch.Tensor, "sample d_model"], codes: Float[torch.Tensor, "sample concept"] | None = None
    ) -> Float[torch.Tensor, "sample concept"]:
        """`1 / (1 + distance)`, as the published code has it."""
        return 1 / (1 + self._distances(values))


@dataclass(frozen=True)
class Centred:
    """Coordinates along orthonormal directions around a mean: principal components.

    Attributes:
        vectors: the directions.
        mean: where they start.
    """

    vectors: Float[torch.Tensor, "concept d_model"]
    mean: Float[torch.Tensor, "d_model"]

    def encode(self, values: Float[torch.Tensor, "sample d_model"]) -> Float[torch.Tensor, "sample concept"]:
        """The coordinates; of either sign."""
        return (values.to(self.mean.dtype) - self.mean.to(values.device)) @ self.vectors.to(values.device).T

    def decode(self, codes: Float[torch.Tensor, "sample concept"]) -> Float[torch.Tensor, "sample d_model"]:
        """The mean and the weighted directions."""
        return self.mean.to(codes.device) + codes @ self.vectors.to(codes.device)

    def activations(
        self, values: Float[torch.Tensor, "sample d_model"], codes: Float[torch.Tensor, "sample concept"] | None = None
    ) -> Float[torch.Tensor, "sample concept"]:
        """The codes."""
        return self.encode(values) if codes is None else codes
