"""Gradients of a metric at hook points, in runs whose activations may be moved."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch

from mmlens.analysis.metrics import Metric, MetricFunction, MetricReading, metric_name, readings
from mmlens.analysis.metrics.accepted import made_up_logits, tried_on
from mmlens.core.errors import InputError
from mmlens.core.gradients import require_autograd
from mmlens.hooks.nodes import Node
from mmlens.hooks.session import HookPair
from mmlens.inputs.batch import MultimodalBatch
from mmlens.models.hooked import HookedMultimodal


def require_gradient(metric: Metric | MetricFunction, model: HookedMultimodal, batch: MultimodalBatch) -> None:
    """Try on made-up logits whether a metric has a gradient, before any forward pass.

    Raises:
        InputError: if it has none, because it counts; under inference mode.
    """
    require_autograd("This method")
    with torch.enable_grad():
        values = tried_on(metric, model, batch.size, texts=batch.texts, requires_grad=True)
    if not values.requires_grad:
        raise InputError(
            f"{metric_name(metric)} has no gradient: it counts (ranks, right answers), or leaves torch's graph. Use a metric "
            "that changes smoothly, such as logit_difference, or an exact method."
        )


def require_own_texts(
    metric: Metric | MetricFunction, model: HookedMultimodal, batch: MultimodalBatch, nodes: Iterable[Node]
) -> None:
    """Refuse gradients at the text tower of a dual encoder where a sample's metric reads other samples' texts.

    Raises:
        InputError: if so, as the gradient at a text would add up what it does for every picture.
    """
    texts = [node.name for node in nodes if node.part == "language"] if batch.apart else []
    if not texts or batch.size == 1:
        return
    with torch.enable_grad():
        logits = made_up_logits(model, batch.size, batch.texts)[:, 0].requires_grad_()
        reading = readings(metric, model, batch.size)[0].against(logits.detach())
        (gradient,) = torch.autograd.grad(reading.unchecked(logits).sum(), logits)
    if gradient.fill_diagonal_(0).any():
        raise InputError(
            f"{metric_name(metric)} reads every picture's score with the texts of other samples, so that a gradient at "
            f"{texts[0]} would mix samples; use image_text_score(), points of the vision tower, or mm.patch, which runs such "
            "cells apart."
        )


def gradients_at(
    model: HookedMultimodal,
    batch: MultimodalBatch,
    names: Sequence[str],
    reading: MetricReading,
    *,
    values_at: Mapping[str, torch.Tensor] | None = None,
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], torch.Tensor]:
    """Activations, the gradient of the metric's sum at them, and the metric, of one run.

    Samples do not mix, so that a sample's part of the gradient is that of its own value.

    Args:
        model: the hooked model.
        batch: what to run on.
        names: hook points.
        reading: what is read of the run.
        values_at: activations to put in the place of the run's own, by point.

    Returns:
        Activations and gradients by point, detached, and values `[sample]`. Points that do not reach the metric have zero
        gradients.
    """
    tensors: dict[str, torch.Tensor] = {}
    pairs: list[HookPair] = [(name, _watch(tensors, (values_at or {}).get(name))) for name in names]
    with torch.enable_grad():
        with model.hooks(pairs):
            logits = model(batch)
        values = reading.of_run(model, logits, batch)
        results = torch.autograd.grad(values.sum(), [tensors[name] for name in names], allow_unused=True)
    gradients = {
        name: torch.zeros_like(tensors[name]) if gradient is None else gradient
        for name, gradient in zip(names, results, strict=True)
    }
    return {name: tensors[name].detach() for name in names}, gradients, values.detach()


def _watch(tensors: dict[str, torch.Tensor], value: torch.Tensor | None) -> Callable[..., torch.Tensor]:
    """A hook that keeps the tensor on the path, and asks for its gradient where nothing before it does."""

    def watch(activation: torch.Tensor, hook: Any) -> torch.Tensor:
        # a value in the place of the run's own starts a path of its own
        here = activation if value is None else value.to(activation)
        here = here if here.requires_grad else here.detach().requires_grad_()
        tensors[hook.name] = here
        return here

    return watch
