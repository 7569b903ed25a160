"""The contract of methods that map an answer's relevance over a picture, and their registry."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, TypeAlias

import torch
from jaxtyping import Float

from mmlens.analysis.attention.shares import Looking, pattern_points
from mmlens.core.errors import InputError
from mmlens.core.kinds import Accepts
from mmlens.core.registry import Method, Registry
from mmlens.hooks.nodes import Node
from mmlens.models.hooked import HookedMultimodal


@dataclass(frozen=True)
class RelevanceMethod(Method):
    """How relevance is worked out from what points hold, and from the gradient of the answer's logit there."""

    #: Whether relevance goes from each row to each other, so that a query is needed; else each row has its own.
    between_rows: ClassVar[bool] = True

    def points(self, model: HookedMultimodal, part: Looking, layers: Sequence[int] | None) -> list[Node]:
        """The points that it reads, first to last: attention patterns.

        Raises:
            InputError: for layers that there are not.
            NoPlaceError: if they see no rows of the picture.
        """
        return pattern_points(model, part, layers)

    def relevance(
        self, values: Mapping[str, torch.Tensor], gradients: Mapping[str, torch.Tensor]
    ) -> Float[torch.Tensor, "*entry query key"] | Float[torch.Tensor, "*entry pos"]:
        """The relevance of each row to each other (`between_rows`), or of each row.

        Args:
            values: what the points hold, in their order.
            gradients: of the answer's logit there; empty if the method needs none.
        """
        raise NotImplementedError


RELEVANCE_METHODS: Registry[RelevanceMethod] = Registry(
    "mapping relevance", RelevanceMethod, verb="mm.lenses.relevance_map"
)
#: A method by name, or its settings.
RelevanceChoice: TypeAlias = Annotated[str | RelevanceMethod, Accepts(Any), RELEVANCE_METHODS.condition]


def require_square(pattern: torch.Tensor) -> None:
    """Refuse patterns between different sequences, which cannot be multiplied up through the layers.

    Raises:
        InputError: if it is one.
    """
    if pattern.shape[-1] != pattern.shape[-2]:
        raise InputError(
            f"Patterns [query={pattern.shape[-2]} key={pattern.shape[-1]}] cannot be multiplied up through the layers: "
            "queries and keys are different rows here."
        )
