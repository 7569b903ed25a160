"""Pairs of batches that circuits are found and judged on, and the metric of each."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, TypeAlias

from mmlens.analysis.metrics import Metric, MetricFunction
from mmlens.analysis.metrics.accepted import tried_on
from mmlens.analysis.metrics.metric import sample_count, token_list
from mmlens.core.errors import InputError
from mmlens.core.kinds import Accepts, Must, With
from mmlens.inputs.batch import MultimodalBatch
from mmlens.interventions.pairs import require_same_layout
from mmlens.models.hooked import HookedMultimodal

#: A batch with the answer and one without; None where what is ablated is set to something else.
BatchPair: TypeAlias = tuple[MultimodalBatch, MultimodalBatch | None]
_WORDS = "a pair of batches, (clean, corrupted), or a list of such pairs; (clean, None) where the ablation needs no corrupted one"


def _is_batch(value: object) -> bool:
    return isinstance(value, Mapping)


def _batch(arguments: Mapping[str, Any], value: Any) -> MultimodalBatch:
    return value if isinstance(value, MultimodalBatch) else arguments["model"].batch(value)


def _pairs(arguments: Mapping[str, Any], value: Any, name: str) -> tuple[BatchPair, ...]:
    """One pair or several as pairs of batches of one layout each.

    Raises:
        InputError: for what are no pairs, or whose layouts differ.
    """
    listed_pairs = [value] if isinstance(value, tuple | list) and len(value) and _is_batch(value[0]) else value
    if not isinstance(listed_pairs, tuple | list) or not listed_pairs:
        raise InputError(
            f"{name} must be {_WORDS}; found {'none' if isinstance(value, tuple | list) else type(value).__name__}."
        )
    pairs: list[BatchPair] = []
    for number, pair in enumerate(listed_pairs):
        label = f"{name}[{number}]" if len(listed_pairs) > 1 else name
        is_pair = isinstance(pair, tuple | list) and len(pair) == 2
        if not is_pair or not _is_batch(pair[0]) or not (pair[1] is None or _is_batch(pair[1])):
            contents = f"{len(pair)} of them" if isinstance(pair, tuple | list) else type(pair).__name__
            raise InputError(f"{label} must be {_WORDS}; found {contents}.")
        first, second = pair
        clean = _batch(arguments, first)
        corrupted = None if second is None else _batch(arguments, second)
        if corrupted is not None:
            try:
                require_same_layout(clean, corrupted)
            except InputError as error:
                raise error if len(listed_pairs) == 1 else InputError(f"{label}: {error}") from None
        pairs.append((clean, corrupted))
    return tuple(pairs)


#: Pairs of a clean and a corrupted batch as verbs take them: one, or several of any layouts.
PairsLike: TypeAlias = Annotated[
    Sequence[BatchPair], Accepts(object), Must(_WORDS, lambda value: value is not None, instead=True), With(_pairs)
]


def metrics_of(
    metric: Metric | MetricFunction, model: HookedMultimodal, pairs: Sequence[BatchPair]
) -> list[Metric | MetricFunction]:
    """The metric of each pair: a metric that names words of each sample is divided as the samples are.

    Raises:
        InputError: before any forward pass, for words of another number of samples, or a metric that cannot work.
    """
    sizes = [clean.size for clean, _ in pairs]
    metrics: list[Metric | MetricFunction] = [metric] * len(sizes)
    if isinstance(metric, Metric):
        slots = [token_list(slot) for slot in metric.tokens]
        if sample_count(metric.name, [[[token] for token in slot] for slot in slots]) > 1:
            total = max(len(slot) for slot in slots)
            if total != sum(sizes):
                raise InputError(
                    f"{metric.name} has tokens for {total} samples, and there are {sum(sizes)} in {len(sizes)} batches."
                )
            ends = [sum(sizes[: number + 1]) for number in range(len(sizes))]
            metrics = [
                replace(metric, tokens=tuple(tuple(s[end - size : end]) if len(s) > 1 else s[0] for s in slots))
                for end, size in zip(ends, sizes, strict=True)
            ]
    for of_pair, (clean, _) in zip(metrics, pairs, strict=True):
        tried_on(of_pair, model, clean.size, texts=clean.texts)
    return metrics
