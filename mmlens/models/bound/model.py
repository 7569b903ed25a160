"""`BoundModel`: a model with a picture held fast, for tools that pass tokens and nothing else."""

from mmlens.models.bound.generation import BoundGeneration
from mmlens.models.bound.runs import BoundRuns
from mmlens.models.bound.tokens import BoundTokens
from mmlens.models.bound.weights import BoundWeights


class BoundModel(BoundRuns, BoundGeneration, BoundTokens, BoundWeights):
    """What `model.bind(batch)` gives: TransformerLens's signatures, with the batch's picture in every run.

    TransformerLens's `patching`, `logit_lens` and `direct_logit_attribution` call `run_with_hooks(tokens, ...)` and
    `run_with_cache(tokens, ...)`; on a vision-language model they would run blind. A bound model runs them on its
    batch: tokens of the batch's shape take the place of its own, everything else (pictures, masks) stays. Attributes that it
    does not have (`W_U`, `blocks`, `ln_final`, `to_single_token`, ...) are the model's.

    Its runs, its tokens and its weights have files of their own.

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
