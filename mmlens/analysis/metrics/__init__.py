"""Metrics: what a run answers, as one value per sample; of tokens at the predicting position, and of words of several tokens."""

from mmlens.analysis.metrics.accepted import MetricLike as MetricLike
from mmlens.analysis.metrics.catalogue import accuracy as accuracy
from mmlens.analysis.metrics.catalogue import image_text_score as image_text_score
from mmlens.analysis.metrics.catalogue import kl_divergence as kl_divergence
from mmlens.analysis.metrics.catalogue import log_odds as log_odds
from mmlens.analysis.metrics.catalogue import log_probability as log_probability
from mmlens.analysis.metrics.catalogue import logit_difference as logit_difference
from mmlens.analysis.metrics.catalogue import probability as probability
from mmlens.analysis.metrics.catalogue import rank as rank
from mmlens.analysis.metrics.measure import measure as measure
from mmlens.analysis.metrics.metric import Metric as Metric
from mmlens.analysis.metrics.metric import MetricFunction as MetricFunction
from mmlens.analysis.metrics.metric import metric_name as metric_name
from mmlens.analysis.metrics.metric import unit_of as unit_of
from mmlens.analysis.metrics.reading import MetricReading as MetricReading
from mmlens.analysis.metrics.reading import as_forced as as_forced
from mmlens.analysis.metrics.reading import readings as readings
