"""What tests of generation share: options under which every model writes as many tokens as asked for, and passes by hand."""

from typing import Any

import torch

from mmlens.models.generation_limits import generator_of
from mmlens.models.hooked import HookedMultimodal

NEW = 6
#: No end token; tokens of pictures would need pictures in the passes that are made by hand.
FREE: dict[str, Any] = {"max_new_tokens": NEW, "eos_token_id": None, "suppress_tokens": [4, 6, 8]}


def text_logits(model: HookedMultimodal, ids: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """Logits of a text without a picture, by one uncached pass of the bare language model."""
    mask = torch.ones_like(ids) if mask is None else mask
    numbers = (mask.cumsum(1) - 1).clamp_min(0)
    if "qwen2_vl" in model.family.name:
        numbers = numbers.expand(3, -1, -1)
    return generator_of(model.base)(ids, attention_mask=mask, position_ids=numbers, use_cache=False).logits
