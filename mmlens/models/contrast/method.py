"""What every way of contrasting is: a second batch, and the formula that both logits go into."""

import math
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeAlias

import torch
from jaxtyping import Float

from mmlens.core.contract import checked
from mmlens.core.errors import InputError
from mmlens.core.kinds import Accepts, Fraction, NonNegative
from mmlens.core.registry import Method, Registry
from mmlens.inputs.batch import MultimodalBatch
from mmlens.models.protocol import HookedModel


@checked
@dataclass(frozen=True)
class ContrastMethod(Method):
    """A way of contrasting: which prompt is run besides, and how strongly its logits are taken away.

        scores = (1 + alpha) l - alpha l',    -inf where l < max l + log(beta)

    with `l` the logits of the prompt and `l'` those of the second prompt after the same new tokens.

    Attributes:
        alpha: strength; 0 leaves the scores as they are.
        beta: how likely a token must be, as a share of the likeliest one's probability under the prompt alone; 0 for no bound.
    """

    alpha: NonNegative = field(default=1.0, kw_only=True)
    beta: Fraction = field(default=0.1, kw_only=True)

    def second(self, model: HookedModel, batch: MultimodalBatch) -> MultimodalBatch:
        """The prompt that is contrasted with, before anything runs.

        Raises:
            InputError: if it cannot be made of this batch.
        """
        raise NotImplementedError

    def scores(
        self, logits: Float[torch.Tensor, "row vocab"], other: Float[torch.Tensor, "row vocab"]
    ) -> Float[torch.Tensor, "row vocab"]:
        """The formula.

        Args:
            logits: of the prompt; log probabilities do as well.
            other: of the second prompt.
        """
        result = (1 + self.alpha) * logits - self.alpha * other
        if not self.beta:
            return result
        threshold = logits.max(dim=-1, keepdim=True).values + math.log(self.beta)
        return result.masked_fill(logits < threshold, -torch.inf)


CONTRAST_METHODS: Registry[ContrastMethod] = Registry(
    "contrastive decoding", ContrastMethod, verb="model.answer", argument="contrast"
)
#: A method by its name or with settings; None for none.
ContrastChoice: TypeAlias = Annotated[str | ContrastMethod | None, Accepts(Any), CONTRAST_METHODS.condition]


def refuse_corrupted(batch: MultimodalBatch, name: str) -> None:
    """Refuse a batch that is corrupted behind its pixels: a second prompt of other pixels or text would not have that.

    Raises:
        InputError: if it is.
    """
    if batch.carried:
        raise InputError(
            f"contrast={name!r} makes its second prompt of text and pixels, and this batch is corrupted behind them, by "
            f"{', '.join(map(repr, batch.carried))}; contrast with a batch of your own: "
            "contrast=mm.decoding.Contrast(other_batch)."
        )
