"""Metrics of an answer: what patching, attribution and circuits measure."""

from mmlens.analysis.metrics import (
    Metric,
    accuracy,
    image_text_score,
    kl_divergence,
    log_odds,
    log_probability,
    logit_difference,
    measure,
    probability,
    rank,
)

__all__ = [  # noqa: RUF022
    "accuracy",
    "kl_divergence",
    "image_text_score",
    "log_odds",
    "log_probability",
    "logit_difference",
    "measure",
    "Metric",
    "probability",
    "rank",
]
