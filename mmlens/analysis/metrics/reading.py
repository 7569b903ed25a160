"""What a metric reads of a run: behind which tokens, at which of the last rows, of which tokens; and its value of these.

A metric is the sum of its readings. There is one, of the predicting position, unless two words of several tokens are compared
whose runs are two (see `forced`); effects, scores and values of the readings add up.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float

from mmlens.analysis.metrics.forced import ForcedLogits, ForcedTerms, forced_terms
from mmlens.analysis.metrics.metric import (
    Measure,
    Metric,
    MetricFunction,
    metric_name,
    require_answer,
    require_apart,
    require_ids,
    sample_count,
    token_list,
)
from mmlens.core.errors import InputError
from mmlens.inputs.batch import MultimodalBatch
from mmlens.models.hooked import HookedMultimodal
from mmlens.models.predicting import last_rows
from mmlens.models.word_forms import WordForms, forms_in_context, in_form


@dataclass(frozen=True, eq=False)
class MetricReading:
    """One of the readings of a metric.

    Attributes:
        metric: what is measured.
        terms: what is read of words of several tokens; None if it is the predicting position alone.
        measure: the metric of the predicting position; None where there are terms.
    """

    metric: Metric | MetricFunction
    terms: ForcedTerms | None = None
    measure: MetricFunction | None = None

    @property
    def n_rows(self) -> int:
        """How many of the last rows it reads."""
        return 1 if self.terms is None else self.terms.n_rows

    @property
    def reads(self) -> list[int] | None:
        """The tokens whose logits it reads; None for the whole vocabulary."""
        reads = self.terms.reads if self.terms is not None else getattr(self.measure, "reads", None)
        return None if reads is None else list(reads)

    def behind(self, model: HookedMultimodal, batch: MultimodalBatch) -> MultimodalBatch:
        """A batch with the tokens behind the prompt that the reading needs.

        Raises:
            InputError: for samples that are padded on the right.
        """
        if self.terms is None or not self.terms.behind.shape[1]:
            return batch
        return model.extend(batch, self.terms.behind.expand(batch.size, -1), as_new=True)

    def against(self, clean: Float[torch.Tensor, "batch ..."]) -> "MetricReading":
        """The same, which knows the clean run's logits at the rows that it reads."""
        if isinstance(self.measure, Measure) and self.measure.metric.against_clean:
            return replace(self, measure=replace(self.measure, clean=clean))
        return self

    def rows(self, model: HookedMultimodal, logits: torch.Tensor, batch: MultimodalBatch) -> torch.Tensor:
        """The rows that are read, `[batch vocab]` or `[batch row vocab]`, of a run's logits `[batch pos vocab]`."""
        return last_rows(model, logits, batch, self.n_rows)

    def values(
        self, logits: Float[torch.Tensor, "batch ..."], *, only_reads: bool = False
    ) -> Float[torch.Tensor, "batch"]:
        """The values of samples.

        Args:
            logits: of the rows that are read, `[batch vocab]`, or `[batch row vocab]` for several.
            only_reads: whether they are those of the tokens in `reads` alone.

        Raises:
            InputError: if the metric does not give one number per sample.
        """
        return require_values(self.unchecked(logits, only_reads=only_reads), len(logits), self.metric)

    def unchecked(self, logits: torch.Tensor, *, only_reads: bool = False) -> torch.Tensor:
        """The same, whatever the metric gives."""
        if self.terms is not None and isinstance(self.metric, Metric) and self.metric.of_words is not None:
            if not only_reads and self.reads is not None:
                logits = logits[..., self.reads]
            logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
            return self.metric.of_words(ForcedLogits(self.terms, logits if logits.ndim == 3 else logits[:, None]))
        if only_reads and isinstance(self.measure, Measure):
            return self.measure.of_read(logits)
        return (self.measure or self.metric)(logits)  # type: ignore[operator]

    def of_run(self, model: HookedMultimodal, logits: torch.Tensor, batch: MultimodalBatch) -> torch.Tensor:
        """The values of samples, `[batch]`, of a run's logits `[batch pos vocab]`."""
        return self.values(self.rows(model, logits, batch))


def readings(
    metric: Metric | MetricFunction, model: HookedMultimodal, size: int, *, clean: MultimodalBatch | None = None
) -> list[MetricReading]:
    """What a metric reads, one run each.

    Args:
        metric: a metric, or any function of logits `[batch vocab]`.
        model: whose tokens are meant.
        size: number of samples.
        clean: the run in which the ways to write a word are compared; None for the way of the fewest tokens.

    Raises:
        InputError: for words that the tokenizer does not know, for another number of samples, or of several tokens where the
            metric has no meaning for them.
    """
    if not isinstance(metric, Metric):
        return [MetricReading(metric, measure=metric)]
    require_answer(model, metric)
    slots = [[_forms(model, token) for token in token_list(tokens)] for tokens in metric.tokens]
    count = sample_count(metric.name, slots)
    if count not in (1, size):
        raise InputError(f"{metric.name} has tokens for {count} samples, and there are logits of {size}.")
    words = _chosen(model, [slot * (size if len(slot) == 1 else 1) for slot in slots], clean)
    require_ids(model, [token for slot in words for word in slot for token in word])
    require_apart(model, metric.name, [word[: len(slot)] for word, slot in zip(words, slots, strict=True)])
    if all(len(word) == 1 for slot in words for word in slot):
        columns = [[word[0] for word in slot] for slot in words]
        ids = torch.tensor(columns).T.contiguous() if columns else torch.zeros(1, 0, dtype=torch.long)
        return [MetricReading(metric, measure=Measure(metric, ids))]
    if metric.of_words is None:
        long = next(word for slot in words for word in slot if len(word) > 1)
        raise InputError(
            f"{metric.name} is a metric of single tokens, and {model.to_string(list(long)).strip()!r} is {len(long)}; name "
            "words of one token, or give the metric of_words=."
        )
    return [MetricReading(metric, terms) for terms in forced_terms(words, metric.signs)]


def as_forced(metric: Metric | MetricFunction, model: HookedMultimodal, batch: MultimodalBatch) -> MultimodalBatch:
    """A batch with tokens behind its prompts as a metric's runs have them, for checks before anything runs.

    Raises:
        InputError: as `readings`; for samples that are padded on the right.
    """
    return readings(metric, model, batch.size)[0].behind(model, batch)


def _forms(model: HookedMultimodal, token: str | int) -> WordForms:
    return ((token,),) if isinstance(token, int) else model.to_word_forms(token)


def _chosen(
    model: HookedMultimodal, slots: list[list[WordForms]], clean: MultimodalBatch | None
) -> list[list[tuple[int, ...]]]:
    """The words in the form that each sample's clean run finds the most probable; without one, in that of the fewest tokens."""
    if clean is None:
        return [[min(filter(None, word), key=len) for word in slot] for slot in slots]
    forms = forms_in_context(model, clean, slots)
    return [[in_form(word, form) for word, form in zip(slot, forms, strict=True)] for slot in slots]


def require_values(values: object, size: int, metric: Metric | MetricFunction) -> torch.Tensor:
    """What a metric returned, if it is one number per sample.

    Raises:
        InputError: if it is not.
    """
    values = one_each(values, size)
    if values.isnan().any():
        samples = values.isnan().nonzero().flatten().tolist()
        raise InputError(
            f"The metric {metric_name(metric)} is NaN for the samples {samples}; it must give a number for each."
        )
    return values


def one_each(values: object, size: int) -> torch.Tensor:
    """What a metric returned, if it is one value per sample.

    Raises:
        InputError: if it is not.
    """
    if not isinstance(values, torch.Tensor) or values.shape != (size,):
        shape = list(values.shape) if isinstance(values, torch.Tensor) else type(values).__name__
        raise InputError(
            f"A metric must give one value per sample, [batch={size}] from logits [batch vocab]; found {shape}."
        )
    return values
