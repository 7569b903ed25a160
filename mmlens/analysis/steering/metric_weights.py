"""By how much a metric rises with the logit of each token."""

import torch
from jaxtyping import Float

from mmlens.analysis.metrics import MetricLike, MetricReading, readings
from mmlens.analysis.metrics.metric import Measure
from mmlens.inputs.batch import MultimodalBatch
from mmlens.models.hooked import HookedMultimodal


def metric_weights(
    metric: MetricLike, model: HookedMultimodal, batch: MultimodalBatch, logits: torch.Tensor | None
) -> Float[torch.Tensor, "vocab"] | None:
    """By how much a metric rises with the logit of each token, summed over samples and rows; None where that is not known.

    `logits` are the batch's own, if it ran already.
    """
    total: torch.Tensor | None = None
    for reading in readings(metric, model, batch.size, clean=batch):
        longer = reading.behind(model, batch)
        whole_logits = logits if logits is not None and longer is batch else model(longer)
        rows = reading.rows(model, whole_logits, longer).float().cpu()
        weights = _weights_of(reading.against(rows), rows)
        if weights is None:
            return None
        total = weights if total is None else total + weights
    return total


def _weights_of(reading: MetricReading, logits: torch.Tensor) -> Float[torch.Tensor, "vocab"] | None:
    """The same of one reading: the first of its tokens against the second, or against all; else along the gradient."""
    measure = reading.measure
    if isinstance(measure, Measure) and measure.ids.shape[1]:
        first, *others = measure.ids.expand(len(logits), -1).T
        weights = torch.nn.functional.one_hot(first, logits.shape[-1]).float()
        against = torch.nn.functional.one_hot(others[0], logits.shape[-1]) if others else logits.softmax(-1)
        return (weights - against).sum(0)
    with torch.enable_grad():
        leaf = logits.detach().clone().requires_grad_()
        value = reading.values(leaf).sum()
        if not value.requires_grad:
            return None
        (gradient,) = torch.autograd.grad(value, leaf, allow_unused=True)
    return None if gradient is None or not gradient.isfinite().all() else gradient.flatten(0, -2).sum(0)
