"""Metrics as verbs take them: tried before any forward pass."""

from collections.abc import Mapping
from typing import Annotated, Any, TypeAlias

import torch
from jaxtyping import Float

from mmlens.analysis.metrics.metric import Measure, Metric, MetricFunction, metric_name, token_list, vocabulary_size
from mmlens.analysis.metrics.reading import one_each, readings
from mmlens.core.errors import InputError
from mmlens.core.kinds import Must, With
from mmlens.inputs.batch import MultimodalBatch
from mmlens.models.hooked import HookedMultimodal


def tried_on(
    metric: Metric | MetricFunction,
    model: HookedMultimodal,
    size: int,
    *,
    texts: int | None = None,
    requires_grad: bool = False,
) -> torch.Tensor:
    """A metric's values on made-up logits, so that one that cannot work is refused before any forward pass.

    Args:
        metric: the metric.
        model: whose logits they could be.
        size: number of samples.
        texts: number of texts, which a dual encoder scores each of them with; as many by default.
        requires_grad: whether the values hang on the logits in torch's graph.

    Raises:
        InputError: for words that the model lacks, words for another number of samples, a wrong shape, or a function that
            fails on logits `[batch vocab]`.
    """
    reading = readings(metric, model, size)[0]
    logits = made_up_logits(model, size, texts, reading.n_rows).requires_grad_(requires_grad)
    rows = logits[:, 0] if reading.n_rows == 1 else logits
    if model.family.score is not None and isinstance(reading.measure, Measure):
        _require_texts(reading.measure, rows.shape[-1])
    try:
        values = reading.against(rows.detach()).unchecked(rows)
    except InputError:
        raise
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(
            f"The metric {metric_name(metric)} failed on logits {list(rows.shape)} [batch vocab] ({error}). A metric is given "
            "the predicting position's logits alone: leave the position out, logits[:, token]."
        ) from error
    return one_each(values, size)


def _require_texts(measure: Measure, n_texts: int) -> None:
    """Refuse numbers of texts that a dual encoder's batch does not have."""
    wrong = [number for number in measure.ids.unique().tolist() if not 0 <= number < n_texts]
    if wrong:
        raise InputError(
            f"The metric {metric_name(measure.metric)} names the texts {wrong}; the batch has {n_texts}, numbered 0 to "
            f"{n_texts - 1}."
        )


def made_up_logits(
    model: HookedMultimodal, size: int, texts: int | None = None, n_rows: int = 1
) -> Float[torch.Tensor, "batch row vocab"]:
    """Numbers in the shape of what a model answers at its last rows; arguments as for `tried_on`."""
    if model.family.score is not None:
        width = size if texts is None else texts
        return torch.linspace(-1, 1, size * width).reshape(size, 1, width)
    shape = (size, n_rows, vocabulary_size(model))
    return torch.linspace(-1, 1, shape[-1]).expand(shape).clone()


def _tried(arguments: Mapping[str, Any], metric: Any, name: str) -> Any:
    """The metric, if it works for the model and the batch among the arguments."""
    model = arguments["model"]
    batch = next(
        (arguments[key] for key in ("clean", "batch", "data") if isinstance(arguments.get(key), MultimodalBatch)), None
    )
    if batch is not None:
        tried_on(metric, model, batch.size, texts=batch.texts)
    elif isinstance(metric, Metric):
        # how many samples a dataset has is not known yet
        readings(metric, model, max((len(token_list(tokens)) for tokens in metric.tokens), default=1))
    return metric


#: A metric as verbs take it: of this module, or any function of logits `[batch vocab]` to values `[batch]`.
MetricLike: TypeAlias = Annotated[
    Metric | MetricFunction,
    Must(
        "a metric of mm.metrics, e.g. logit_difference('red', 'blue'), or a function from logits [batch vocab] to values [batch]",
        lambda value: True,
        instead=True,
    ),
    With(_tried),
]
