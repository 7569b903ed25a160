"""A model with a picture held fast, for tools that pass tokens and nothing else."""

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
from mmlens.models.protocol import HookedModel


class BoundModel:
    """What `model.bind(batch)` gives: TransformerLens's signatures, with the batch's picture in every run.

    TransformerLens's `patching`, `logit_lens` and `direct_logit_attribution` call `run_with_hooks(tokens, ...)` and
    `run_with_cache(tokens, ...)`; on a vision-language model they would run blind. A bound model runs them on its
    batch: tokens of the batch's shape take the place of its own, everything else (pictures, masks) stays. Attributes that it
    does not have (`cfg`, `W_U`, `blocks`, `ln_final`, `to_single_token`, ...) are the model's.

    Args:
        model: the hooked model.
        batch: the batch to run on.

    Example:
        >>> from transformer_lens import patching
        >>> bound = model.bind(batch)
        >>> logits, clean = bound.run_with_cache(batch["input_ids"])
        >>> grid = patching.get_act_patch_resid_pre(
        ...     bound, batch["input_ids"], clean, lambda logits: logits[0, -1].max()
        ... )  # doctest: +SKIP
    """

    def __init__(self, model: HookedModel, batch: MultimodalBatch):
        self.model = model
        self.batch = batch

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    @property
    def cfg(self) -> Any:
        """The language model's shape."""
        return self.model.cfg

    def to_tokens(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """The batch's own tokens for no arguments; else the tokenizer's."""
        return self.model.to_tokens(*args, **kwargs) if args or kwargs else self.batch["input_ids"]

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
