"""Metrics: functions of the logits at the predicting position, with one value per sample."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from jaxtyping import Float

from mmlens.core.errors import InputError
from mmlens.models.hooked import HookedMultimodal

#: `logits [batch vocab]` at the last position to one value per sample `[batch]`.
MetricFunction: TypeAlias = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Metric:
    """A metric with a name and a unit; tokens are looked up when it meets a model.

    Attributes:
        name: how it is printed.
        unit: of its values.
        tokens: the tokens it reads, as strings or ids.
        function: from logits `[batch vocab]` and token ids to values `[batch]`.
    """

    name: str
    unit: str
    tokens: tuple[str | int, ...]
    function: Callable[[torch.Tensor, tuple[int, ...]], torch.Tensor]

    def on(self, model: HookedMultimodal) -> MetricFunction:
        """The metric as a function of logits.

        Raises:
            InputError: if a token is not a single token of this model.
        """
        ids = tuple(model.to_single_token(t) if isinstance(t, str) else int(t) for t in self.tokens)
        return lambda logits: self.function(logits, ids)


def log_probability(token: str | int) -> Metric:
    """Log-probability of a token, in nats."""
    return Metric(f"log p({token!r})", "nats", (token,), lambda logits, ids: logits.log_softmax(-1)[:, ids[0]])


def logit_difference(answer: str | int, other: str | int) -> Metric:
    """Logit of one token minus the logit of another."""
    return Metric(
        f"logit({answer!r}) - logit({other!r})",
        "logits",
        (answer, other),
        lambda logits, ids: logits[:, ids[0]] - logits[:, ids[1]],
    )


def as_function(metric: Metric | MetricFunction, model: HookedMultimodal) -> MetricFunction:
    """Make a metric of what the caller gave: one of this module, or any function of logits `[batch vocab]`."""
    return metric.on(model) if isinstance(metric, Metric) else metric


def per_sample(
    metric: MetricFunction, logits: Float[torch.Tensor, "batch pos vocab"], last: torch.Tensor
) -> Float[torch.Tensor, "batch"]:
    """Apply a metric at each sample's predicting position.

    Raises:
        InputError: if it does not give one value per sample.
    """
    at_last = logits[torch.arange(len(logits)), last.to(logits.device)]
    values = metric(at_last)
    if not isinstance(values, torch.Tensor) or values.shape != (len(logits),):
        found = list(values.shape) if isinstance(values, torch.Tensor) else type(values).__name__
        raise InputError(
            f"A metric must give one value per sample, [batch={len(logits)}] from logits [batch vocab]; found {found}."
        )
    return values
