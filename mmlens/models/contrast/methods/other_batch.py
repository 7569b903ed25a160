"""Contrast with a batch of the user's."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from mmlens.core.errors import InputError
from mmlens.inputs.batch import MultimodalBatch
from mmlens.models.contrast.method import CONTRAST_METHODS, ContrastMethod
from mmlens.models.generation_limits import refuse_right_padding
from mmlens.models.protocol import HookedModel

#: A batch, or what makes one of the model and the batch that is gone on with: a function of `mm.corrupt`.
Against: TypeAlias = MultimodalBatch | Callable[[Any, Any], Any]


@CONTRAST_METHODS.register("other_batch")
@dataclass(frozen=True)
class Contrast(ContrastMethod):
    """Any other prompt, picture or both, with as many samples: a batch, or a corruption that makes one.

    Attributes:
        against: a batch, or a function of the model and the batch: `mm.corrupt.blur`, `partial(mm.corrupt.noise, at="pixels")`.
        alpha, beta: see `ContrastMethod`.

    Source: Li et al., "Contrastive Decoding: Open-ended Text Generation as Optimization", ACL 2023
    (https://arxiv.org/abs/2210.15097), sections 3.2 and 3.3: the formula and the bound.
    """

    against: Against

    def second(self, model: HookedModel, batch: MultimodalBatch) -> MultimodalBatch:
        """The batch that was given, or made."""
        other = self.against if isinstance(self.against, MultimodalBatch) else self.against(model, batch)
        if not isinstance(other, MultimodalBatch) or other.size != batch.size:
            description = (
                f"a batch of {other.size} samples" if isinstance(other, MultimodalBatch) else type(other).__name__
            )
            raise InputError(
                f"against= must be (or make) a batch with as many samples as the one that is gone on with, {batch.size}; found "
                f"{description}."
            )
        refuse_right_padding(model, other.layout.is_token)
        return other
