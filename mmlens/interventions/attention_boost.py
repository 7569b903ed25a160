"""Paying more attention to some positions: attention scores are raised by a share of their size.

s  ->  s + alpha |s|        at pairs of a query and a key that it sees
"""

from dataclasses import dataclass, field

import torch

from mmlens.core.contract import checked
from mmlens.core.errors import InputError
from mmlens.core.positions import generated, last
from mmlens.core.rules import Positions
from mmlens.hooks.attention import allowed_by
from mmlens.hooks.nodes import Node
from mmlens.interventions.knockout import AtPairs


@checked
@dataclass(frozen=True)
class BoostAttention(AtPairs):
    """Raise attention scores of some positions to others, by default of what predicts a new token to the picture (PAI).

    A positive score grows by `alpha` of itself, a negative one shrinks towards 0 by as much: from either side the key gains.

    Args:
        queries: the positions that look; by default the prompt's last one and every new token.
        keys: the positions that they look at more; the picture by default.
        layers: block numbers; None for all. The paper leaves out the first two: `range(2, model.cfg.n_layers)`.
        heads: head numbers, in each of the layers; or heads (`"L2.h3"`), which bring their layers along; None for all.
        part, stack, attention: as for `mm.KnockOut`.
        alpha: how much; the paper has 0.2 to 0.9. Negative numbers lower the scores.

    Raises:
        InputError: for an alpha of 0, which changes nothing.

    Example:
        >>> with model.intervene(BoostAttention(alpha=0.5, layers=range(2, 6))):
        ...     answer = model.generate(batch, max_new_tokens=3)

    Source: Liu, Zheng and Chen, "Paying More Attention to Image: A Training-Free Method for Alleviating Hallucination in LVLMs",
    ECCV 2024 (https://arxiv.org/abs/2407.21771), section 3.2; github.com/LALBJ/PAI. Its other half is `contrast="pai"`.
    *Departs:* keys that the mask hides stay hidden, whose scores are very low numbers that the formula would turn round.
    """

    queries: Positions = last | generated
    keys: Positions = "image"
    alpha: float = field(default=0.2, kw_only=True)

    def __post_init__(self) -> None:
        if not self.alpha:
            raise InputError("alpha=0 would leave every score as it is; give another number, e.g. alpha=0.2.")

    def changed(self, scores: torch.Tensor, pairs: torch.Tensor, node: Node, *, by_mask: bool) -> torch.Tensor:
        """The scores, raised at the pairs that may attend."""
        visible = pairs.to(scores.device) & allowed_by(scores)
        return torch.where(visible, scores + self.alpha * scores.abs(), scores)
