"""The logits that predict what is said next."""

import torch
from jaxtyping import Float

from mmlens.inputs.batch import MultimodalBatch
from mmlens.models.hooked import HookedMultimodal


def last_rows(
    model: HookedMultimodal, logits: Float[torch.Tensor, "batch *pos vocab"], batch: MultimodalBatch, count: int = 1
) -> Float[torch.Tensor, "batch *row vocab"]:
    """Logits at each sample's last position, `[batch vocab]`, or at its last so many, `[batch row vocab]`.

    In an encoder-decoder model they are those of what the decoder has written; in a dual encoder, which scores pictures and
    texts, `[picture text]`, there is one row for each picture.

    Args:
        model: whose logits they are.
        logits: of all positions.
        batch: what was run.
        count: how many positions.
    """
    if logits.ndim == 2:
        return logits
    if model.graph["hook_logits"].sequence != "language":
        rows = logits[:, -count:]
    else:
        where = batch.layout.last.to(logits.device)[:, None] + torch.arange(1 - count, 1, device=logits.device)
        rows = logits[torch.arange(len(logits), device=logits.device)[:, None], where]
    return rows[:, 0] if count == 1 else rows
