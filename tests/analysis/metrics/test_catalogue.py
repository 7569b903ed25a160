"""Metrics against their definitions, one value per sample, with tokens for each."""

from typing import Any

import pytest
import torch

from mmlens.analysis import metrics
from mmlens.analysis.metrics.accepted import tried_on
from mmlens.analysis.patching.sweep import patch
from mmlens.core.errors import InputError
from mmlens.models.predicting import last_rows
from tests.conftest import Subject

LOGITS = torch.randn(3, 32, generator=torch.Generator().manual_seed(0)).double()


def test_values_are_those_of_the_definitions(llava: Subject) -> None:
    red, blue = (llava.model.to_single_token(word) for word in ("red", "blue"))
    p = LOGITS.exp() / LOGITS.exp().sum(-1, keepdim=True)
    clean = LOGITS.roll(1, 0)
    q = clean.exp() / clean.exp().sum(-1, keepdim=True)
    best = LOGITS.argmax(-1)
    expected = {
        metrics.log_probability("red"): p[:, red].log(),
        metrics.probability("red"): p[:, red],
        metrics.log_odds("red"): (p[:, red] / (1 - p[:, red])).log(),
        metrics.logit_difference("red", "blue"): LOGITS[:, red] - LOGITS[:, blue],
        metrics.rank("red"): torch.tensor(
            [sorted(row, reverse=True).index(row[red]) for row in LOGITS.tolist()]
        ).double(),
        metrics.accuracy(best.tolist()): torch.ones(3).double(),
        metrics.accuracy([int(best[0]), 0, 0]): torch.tensor([1.0, 0.0, 0.0]).double(),
        metrics.kl_divergence(): (q * (q.log() - p.log())).sum(-1),
        metrics.logit_difference(["red", "blue", 7], "blue"): LOGITS[range(3), [red, blue, 7]] - LOGITS[:, blue],
    }
    for metric, values in expected.items():
        measure = metric.on(llava.model, clean=clean)
        torch.testing.assert_close(measure(LOGITS), values, msg=lambda m, metric=metric: f"{metric}: {m}")


def test_from_the_tokens_that_it_reads_alone_the_value_is_the_same(llava: Subject) -> None:
    for metric in (metrics.logit_difference("red", "blue"), metrics.logit_difference(["red", "blue", 7], [3, 4, 3])):
        measure = metric.on(llava.model)
        assert measure.reads is not None
        assert list(measure.reads) == sorted(set(measure.ids.flatten().tolist()))
        torch.testing.assert_close(measure.of_read(LOGITS[:, list(measure.reads)]), measure(LOGITS))
    assert metrics.log_probability("red").on(llava.model).reads is None


def test_metrics_say_what_they_are() -> None:
    assert repr(metrics.log_probability("red")) == "Metric(log p('red'), nats)"
    assert metrics.metric_name(metrics.rank(["a", "b", "c", "d"])) == "rank(['a', 'b', 'c', ...]), tokens"


def test_a_metric_that_cannot_be_is_refused(llava: Subject) -> None:
    cases: list[tuple[Any, str]] = [
        (metrics.log_probability("red unheardof"), "'red unheardof' is unknown to the tokenizer"),
        (metrics.log_probability(99), r"was given the token ids \[99\]; the vocabulary has ids 0..31"),
        (metrics.log_probability(["red", "blue"]), "has tokens for 2 samples, and there are logits of 3"),
        (metrics.logit_difference(["red", "blue"], [1, 2, 3]), r"was given words for \[2, 3\] samples"),
        (lambda logits: logits.mean(), r"one value per sample, \[batch=3\].*found \[\]"),
        (lambda logits: 1.0, r"one value per sample, \[batch=3\].*found float"),
        (
            lambda logits: logits[:, -1, 5],
            r"^The metric <lambda> failed on logits \[3, 32\] \[batch vocab\] \(too many indices for tensor of dimension 2\)\. "
            r"A metric is given the predicting position's logits alone: leave the position out, logits\[:, token\]\.$",
        ),
    ]
    for metric, message in cases:
        with pytest.raises(InputError, match=message):
            tried_on(metric, llava.model, 3)
    for tokens in ([], "", -1, 1.5, True, ["red", None]):
        with pytest.raises(InputError, match=r"log_probability: token(\[1\])?="):
            metrics.log_probability(tokens)  # type: ignore[arg-type]
    for pair in (("red", "red"), (5, 5), (["red", "blue"], ["green", "blue"]), (["red", 4], ["red", 4])):
        with pytest.raises(InputError, match="name two different words"):
            metrics.logit_difference(*pair)
    model, batch = llava.model, llava.batches["left"]
    with pytest.raises(
        InputError, match=r"metric='logit_diff' must be a metric of mm.metrics, e.g. logit_difference\("
    ):
        patch(model, batch, batch, at="hook_embed", metric="logit_diff")  # type: ignore[arg-type]

    def undefined(logits: torch.Tensor) -> torch.Tensor:
        return logits[:, 0] - logits[:, 0].where(logits[:, 0] > 1e9, float("nan"))

    with pytest.raises(InputError, match=r"The metric undefined is NaN for the samples \[0, 1\]"):
        patch(model, batch, batch, at="hook_embed", metric=undefined, progress=False)
    with pytest.raises(InputError, match=r"KL\(clean \|\| run\) compares with the clean run"):
        metrics.kl_divergence().on(llava.model)


def test_they_are_read_at_the_predicting_position(subject: Subject) -> None:
    for batch in subject.batches.values():
        logits = subject.model(batch)
        rows = last_rows(subject.model, logits, batch)
        assert torch.equal(rows, torch.stack([logits[i, int(last)] for i, last in enumerate(batch.layout.last)]))
        expected = rows.log_softmax(-1)[:, subject.model.to_single_token("red")]
        torch.testing.assert_close(
            metrics.measure(subject.model, batch, metric=metrics.log_probability("red")), expected
        )
