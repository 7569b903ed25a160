"""A control for contrasts: as strong a change of the logits, of other tokens."""

from dataclasses import dataclass

import torch
from jaxtyping import Float

from mmlens.core.kinds import Seed
from mmlens.inputs.batch import MultimodalBatch
from mmlens.models.contrast.method import CONTRAST_METHODS, ContrastMethod
from mmlens.models.protocol import HookedModel


@CONTRAST_METHODS.register("permuted")
@dataclass(frozen=True)
class Permuted(ContrastMethod):
    """Another contrast whose differences are dealt out to other tokens: a control of the same strength.

        scores = formula(l, l - d_perm),    d = l - l',    perm a fixed permutation of the vocabulary

    What such a contrast does too is due to changing logits and to the bound `beta`, not to what the second prompt says.

    Attributes:
        contrast: the contrast that it is a control of, whose alpha and beta hold.
        seed: of the permutation.
        alpha, beta: not read.
    """

    contrast: ContrastMethod
    seed: Seed = 0

    def second(self, model: HookedModel, batch: MultimodalBatch) -> MultimodalBatch:
        """The second prompt of the contrast itself."""
        return self.contrast.second(model, batch)

    def scores(
        self, logits: Float[torch.Tensor, "row vocab"], other: Float[torch.Tensor, "row vocab"]
    ) -> Float[torch.Tensor, "row vocab"]:
        """The formula, with the differences of other tokens."""
        order = torch.randperm(logits.shape[1], generator=torch.Generator().manual_seed(self.seed)).to(logits.device)
        return self.contrast.scores(logits, logits - (logits - other)[:, order])
