"""A metric of one run."""

import torch
from jaxtyping import Float

from mmlens.analysis.metrics.accepted import MetricLike
from mmlens.analysis.metrics.reading import readings
from mmlens.core.contract import checked
from mmlens.inputs.batch import BatchLike
from mmlens.models.hooked import HookedMultimodal


@checked
@torch.no_grad()
def measure(model: HookedMultimodal, batch: BatchLike, *, metric: MetricLike) -> Float[torch.Tensor, "batch"]:
    """A metric of what the model answers to a batch, with what is in force (edits, interventions) in force.

    Args:
        model: the hooked model.
        batch: prompts; for words of several tokens padded on the left.
        metric: of `mm.metrics`, or any function of logits `[batch vocab]` at the predicting position to `[batch]`.

    Returns:
        One value per sample, in the metric's unit; a KL is that to the run itself, 0.

    Raises:
        InputError: for words that the tokenizer does not know, or for another number of samples.

    Example:
        >>> import mmlens as mm
        >>> whole = mm.metrics.measure(model, batch, metric=mm.metrics.log_probability("red"))
        >>> token = model.to_single_token("red")
        >>> bool(torch.allclose(whole, model(batch)[:, -1].log_softmax(-1)[:, token], atol=1e-4))
        True
    """
    total = torch.zeros(batch.size)
    for reading in readings(metric, model, batch.size, clean=batch):
        run = reading.behind(model, batch)
        rows = reading.rows(model, model(run), run)
        total = total + reading.against(rows).values(rows).cpu()
    return total
