"""Tokens and strings of a bound model, under TransformerLens's names."""

from typing import Any

import torch

from mmlens.models.bound.base import Bound


class BoundTokens(Bound):
    """The tokens of a bound model's batch, and of other texts."""

    def to_tokens(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """The batch's own tokens for no arguments; else the tokenizer's."""
        return self.model.to_tokens(*args, **kwargs) if args or kwargs else self.batch["input_ids"]
