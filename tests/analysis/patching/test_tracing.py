"""Causal tracing: against noise and patches one by one, and on a model whose patch is known."""

import pytest
import torch

from mmlens.analysis.metrics import logit_difference, probability
from mmlens.analysis.patching.sweep import patch
from mmlens.analysis.patching.tracing import causal_trace
from mmlens.core.errors import InputError
from mmlens.interventions.corruptions import noise
from tests.analysis.conftest import Wrapped
from tests.conftest import Subject


def test_it_is_the_mean_of_a_sweep_per_seed(subject: Subject) -> None:
    model, batch = subject.model, subject.batches["left"]
    metric = probability("red")
    options = {"at": "blocks.*.hook_mlp_out", "positions": ["image", "last"], "window": 2, "metric": metric}
    trace = causal_trace(model, batch, seeds=[4, 5], sigma=2.0, progress=False, **options)  # type: ignore[arg-type]
    each = [
        patch(model, batch, noise(model, batch, sigma=2.0, seed=seed), progress=False, **options)  # type: ignore[arg-type]
        for seed in (4, 5)
    ]
    torch.testing.assert_close(trace.values, (each[0].values + each[1].values) / 2)
    torch.testing.assert_close(trace.corrupted, (each[0].corrupted + each[1].corrupted) / 2)
    assert not torch.equal(each[0].corrupted, each[1].corrupted)
    assert trace.points == [
        "blocks.0.hook_mlp_out",
        "blocks.1.hook_mlp_out[layers 0-1]",
        "blocks.2.hook_mlp_out[layers 1-2]",
    ]


def test_the_planted_patch_carries_the_answer(planted_patch: Wrapped) -> None:
    truth, model, batch = planted_patch.truth, planted_patch.model, planted_patch.batch()
    metric = logit_difference(truth.token, truth.default_token)
    trace = causal_trace(
        model, batch, at="blocks.*.hook_resid_pre", positions="each", metric=metric, seeds=range(4), progress=False
    )
    assert float(trace.corrupted) < 0.7 * float(trace.clean), "the noise took nothing away"
    row, last = int(batch.layout.patches(truth.box)[0]), int(batch.layout.last[0])
    for layer in range(len(trace.points)):
        assert int(trace.effect[layer, :, 0].argmax()) == (row if layer <= truth.head_layer else last)


def test_noise_on_words_is_traced_too(llava: Subject) -> None:
    model, batch = llava.model, llava.batches["left"]
    trace = causal_trace(
        model,
        batch,
        metric=probability("red"),
        noised=[torch.tensor([16]), torch.tensor([19, 20])],
        seeds=[0],
        progress=False,  # type: ignore[arg-type]
    )
    image, words, _ = (trace.groups.index(name) for name in ("image", "text", "last"))
    assert trace.effect[:, image].abs().max() < 1e-6, "the picture was in front of the noise and is as it was"
    assert trace.effect[0, words].abs().min() > 1e-4


def test_seeds_must_be_different(llava: Subject) -> None:
    for seeds in ([], [1, 1]):
        with pytest.raises(InputError, match="non-empty, without repetition"):
            causal_trace(llava.model, llava.batches["left"], metric=probability("red"), seeds=seeds, progress=False)
