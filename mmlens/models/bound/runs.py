"""Runs of a bound model in TransformerLens's words, with the picture of its batch."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from transformer_lens.utilities import Slice

from mmlens.core.axes import position_axis
from mmlens.core.errors import InputError
from mmlens.hooks.cache import ActivationCache
from mmlens.hooks.session import HookPair
from mmlens.inputs.batch import MultimodalBatch, picture_positions
from mmlens.models.bound.base import Bound


class BoundRuns(Bound):
    """The runs of a bound model."""

    def _with(self, tokens: torch.Tensor | None) -> MultimodalBatch:
        """The batch with other tokens in the place of its own."""
        if tokens is None:
            return self.batch
        prompt_ids = self.batch["input_ids"]
        if not isinstance(tokens, torch.Tensor) or tokens.shape != prompt_ids.shape:
            shape = list(tokens.shape) if isinstance(tokens, torch.Tensor) else type(tokens).__name__
            raise InputError(
                f"This model is bound to a batch of tokens {list(prompt_ids.shape)} [batch pos], found {shape}; bind another "
                "batch for other samples: model.bind(model.prepare(...))."
            )
        tokens = tokens.to(prompt_ids.device)
        inputs = {**self.batch.inputs, "input_ids": tokens}
        is_picture = picture_positions(self.model.family, self.model.config, inputs)
        is_picture[:, is_picture.shape[1] - self.batch.written :] = False
        if not torch.equal(is_picture.cpu(), self.batch.layout.is_image):
            raise InputError(
                "The tokens have image tokens at other positions than the batch that this model is bound to."
            )
        return replace(self.batch, inputs=inputs)

    def __call__(self, tokens: torch.Tensor | None = None) -> torch.Tensor:
        """Logits `[batch pos vocab]` for the batch, or for other tokens with its picture."""
        return self.model(self._with(tokens))

    forward = __call__

    def run_with_hooks(
        self,
        tokens: torch.Tensor | None = None,
        fwd_hooks: Sequence[HookPair] = (),
    ) -> torch.Tensor:
        """Run with hooks, with the picture; logits `[batch pos vocab]`."""
        return self.model.run_with_hooks(self._with(tokens), fwd_hooks=fwd_hooks)

    def run_with_cache(
        self,
        tokens: torch.Tensor | None = None,
        names_filter: Callable[[str], bool] | str | Sequence[str] | None = None,
        device: torch.device | str | None = None,
        remove_batch_dim: bool = False,
        pos_slice: Any | None = None,
    ) -> tuple[torch.Tensor, ActivationCache]:
        """Run and cache, with the picture, in TransformerLens's words.

        Args:
            tokens: other tokens of the same shape; None for the batch's own.
            names_filter: a name, names, or predicate.
            device: where the cache goes.
            remove_batch_dim: drop a batch axis of size 1.
            pos_slice: which positions to keep, as a slice or `transformer_lens.utilities.Slice`.
        """
        logits, cache = self.model.run_with_cache(self._with(tokens), names=names_filter, device=device)
        if pos_slice is not None:  # raw rows, padding counted, as in TransformerLens
            rows = Slice.unwrap(pos_slice)
            for name, tensor in cache.cache_dict.items():
                cache.cache_dict[name] = rows.apply(tensor, dim=position_axis(cache.axes[name]))
        if remove_batch_dim:
            cache.remove_batch_dim()
        return logits, cache
