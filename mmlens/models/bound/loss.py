"""The loss of a bound model: what its tokens of text cost, given everything in front of them."""

import torch
from jaxtyping import Bool, Float

from mmlens.core.errors import InputError
from mmlens.inputs.batch import MultimodalBatch


def target_ids(batch: MultimodalBatch) -> torch.Tensor:
    """The tokens whose sequence the logits run over, `[batch pos]`: the prompt, or what the decoder has written."""
    return batch.inputs["decoder_input_ids"] if "decoder_input_ids" in batch.inputs else batch["input_ids"]


def target_mask(batch: MultimodalBatch) -> Bool[torch.Tensor, "batch target"]:
    """True where a token, from the second on, is a target: text, behind a token; no place of a picture, no padding."""
    layout = batch.layout
    if "decoder_input_ids" in batch.inputs:
        return torch.ones_like(target_ids(batch)[:, 1:], dtype=torch.bool)
    is_token = layout.is_token
    return is_token[:, 1:] & is_token[:, :-1] & ~layout.is_image[:, 1:]


def losses_of(
    logits: Float[torch.Tensor, "batch pos vocab"], batch: MultimodalBatch, *, per_token: bool
) -> Float[torch.Tensor, "..."]:
    """The negative log-probability of each target, in nats: their mean, or `[batch pos-1]`, zero where there is no target.

    Args:
        logits: of the batch.
        batch: what was run.
        per_token: one number for each token from the second on.

    Raises:
        InputError: if logits belong to other tokens, or nothing is a target.
    """
    ids = target_ids(batch).to(logits.device)
    if logits.ndim != 3 or logits.shape[:2] != ids.shape:
        raise InputError(
            f"Logits are {list(logits.shape)}, but the tokens are {list(ids.shape)} [batch pos]; pass those of one run."
        )
    is_target = target_mask(batch).to(logits.device)
    if not is_target.any():
        raise InputError("There is no loss: no token of text stands behind another token.")
    log_probs = logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
    losses = torch.where(is_target, -log_probs, 0.0)
    return losses if per_token else losses.sum() / is_target.sum()
