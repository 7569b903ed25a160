"""A copied hooked model is one of its own: its hooks act on it, and on it alone."""

import copy
import pickle
from dataclasses import replace

import pytest
import torch

from mmlens.analysis import metrics
from mmlens.analysis.neurons.find import find_neurons
from mmlens.core.errors import InputError
from mmlens.core.identity import identity_of
from mmlens.core.units import Neuron
from mmlens.interventions.corruptions import noise
from mmlens.interventions.edits import scale_neurons
from tests.conftest import Subject


@torch.no_grad()
def test_hooks_of_a_copy_act_on_the_copy_alone(subject: Subject) -> None:
    model, batch = subject.model, subject.batches["left"]
    copied = copy.deepcopy(model)
    plain = model(batch)
    assert torch.equal(copied(batch), plain)
    assert copied.graph.names == model.graph.names
    # one of every kind of attachment: towers' attention above all, which is switched on in the configuration
    kinds = ["attn.hook_pattern", "attn.hook_z", "hook_resid_mid", "mlp.hook_post", "ln1.hook_scale"]
    for name in [f"{part}blocks.1.{kind}" for part in ("", "vision.") for kind in kinds] + ["projector.hook_out"]:
        halved = [(name, lambda activation, hook: activation * 0.5)]
        expected = model.run_with_hooks(batch, fwd_hooks=halved)
        assert not torch.equal(expected, plain)
        with copied.hooks(halved):
            assert torch.equal(copied(batch), expected)
            assert torch.equal(model(batch), plain)
    with torch.no_grad():
        copied.blocks[0].mlp.W_out.zero_()
    assert torch.equal(model(batch), plain)
    assert not torch.equal(copied(batch), plain)


@torch.no_grad()
def test_an_edited_copy_stands_beside_the_original(llava: Subject) -> None:
    model, batch = llava.model, llava.batches["left"]
    edit = scale_neurons(model, [Neuron(0, 1)], factor=5.0)
    with model.edited(edit):
        expected = model(batch)
        with pytest.raises(
            InputError,
            match=r"^A model cannot be copied while Edit\(scale: .*\) is in force; copy it first, and hook or edit the copy\.$",
        ):
            copy.deepcopy(model)
    edited = copy.deepcopy(model)
    edited.apply(edit)
    assert torch.equal(edited(batch), expected)
    assert not torch.equal(model(batch), expected)


def test_a_hooked_model_is_not_copied(llava: Subject) -> None:
    model = llava.model
    with (
        model.hooks([("blocks.0.hook_resid_pre", lambda activation, hook: None)]),
        pytest.raises(
            InputError, match=r"^A model cannot be copied while hooks are attached \(blocks\.0\.hook_resid_pre\);"
        ),
    ):
        copy.deepcopy(model)


METRICS = [
    metrics.logit_difference("red", "blue"),
    metrics.log_probability("red"),
    metrics.probability("red"),
    metrics.log_odds("red"),
    metrics.rank("red"),
    metrics.accuracy("red"),
    metrics.kl_divergence(),
]


@pytest.mark.parametrize("metric", METRICS, ids=str)
def test_metrics_pickle_and_measure_the_same(llava: Subject, metric: metrics.Metric) -> None:
    logits = torch.randn(3, llava.model.cfg.d_vocab, generator=torch.Generator().manual_seed(0))
    clean = torch.roll(logits, 1, 0) if metric.against_clean else None
    again = pickle.loads(pickle.dumps(metric))
    assert torch.equal(again.on(llava.model, clean=clean)(logits), metric.on(llava.model, clean=clean)(logits))
    assert identity_of(again) == identity_of(metric)


@torch.no_grad()
def test_batches_pickle_with_what_they_carry_and_models_say_why_not(llava: Subject) -> None:
    model, batch = llava.model, llava.batches["left"]
    for held in (batch, noise(model, batch, seed=1)):
        again = pickle.loads(pickle.dumps(held))
        assert identity_of(again) == identity_of(held)
        assert torch.equal(model(again), model(held))
    scores = find_neurons(model, batch, token="red")
    bare = pickle.loads(pickle.dumps(replace(scores, model=None)))
    assert torch.equal(bare.scores, scores.scores)
    for held in (model, scores, model.run_with_cache(batch)[1]):
        with pytest.raises(InputError, match=r"cannot be pickled .* Save it by model\.save_pretrained\(folder\)"):
            pickle.dumps(held)
