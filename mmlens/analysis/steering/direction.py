"""The contract of methods that find one direction between pairs of states, and their registry."""

from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias

import torch
from jaxtyping import Float

from mmlens.core.errors import InputError
from mmlens.core.kinds import Accepts
from mmlens.core.registry import Method, Registry


@dataclass(frozen=True)
class DirectionMethod(Method):
    """How one direction is found between pairs of states, of which one should become like the other."""

    def direction(
        self, negative: Float[torch.Tensor, "pair d_model"], positive: Float[torch.Tensor, "pair d_model"]
    ) -> Float[torch.Tensor, "d_model"]:
        """The direction from negative states to positive ones.

        Args:
            negative, positive: states in float64; row `i` of both belongs to one pair.

        Raises:
            InputError: for fewer pairs than the method needs.
        """
        raise NotImplementedError


def first_component(rows: Float[torch.Tensor, "row d_model"]) -> Float[torch.Tensor, "d_model"]:
    """The direction of unit length in which rows vary most about their mean."""
    return torch.linalg.svd(rows - rows.mean(0), full_matrices=False).Vh[0]


def facing(
    direction: Float[torch.Tensor, "d_model"],
    negative: Float[torch.Tensor, "pair d_model"],
    positive: Float[torch.Tensor, "pair d_model"],
) -> Float[torch.Tensor, "d_model"]:
    """A direction whose sign is free, turned so that in most pairs the positive state lies further along it."""
    ahead = ((positive - negative) @ direction).sign().sum()
    return -direction if ahead < 0 else direction


def require_pairs(negative: torch.Tensor, positive: torch.Tensor, least: int) -> None:
    """Check that states come in pairs, and in enough of them.

    Raises:
        InputError: if they do not.
    """
    if negative.shape != positive.shape or len(negative) < least:
        raise InputError(
            f"Directions are found between at least {least} pairs of states, found {list(negative.shape)} and "
            f"{list(positive.shape)} [pair d_model]; pass samples that both prompts have a state of, and more of them."
        )


DIRECTION_METHODS: Registry[DirectionMethod] = Registry(
    "directions between pairs of states", DirectionMethod, verb="mm.steering.contrastive_vector"
)
#: A method by name, or its settings.
DirectionChoice: TypeAlias = Annotated[str | DirectionMethod, Accepts(Any), DIRECTION_METHODS.condition]
