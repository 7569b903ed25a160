"""Matched random units: of the same kind and block, never among those that they stand for, each draw another set."""

from math import comb

import pytest
import torch

import mmlens as mm
from mmlens.analysis.controls.matches import MATCHES
from mmlens.analysis.controls.random_units import RandomUnits, random_units
from mmlens.core.errors import InputError, UnknownNameError
from mmlens.core.unit_sets import Units
from mmlens.core.units import Head, Neuron
from mmlens.interventions.ablation import Ablate
from tests.analysis.conftest import Wrapped
from tests.conftest import Subject

LIKE = Units(["L1.u3", "L1.u5", "L2.u7", "vision.L0.u2", "L2.h1", "vision.L1.h0"])


@pytest.mark.parametrize("match", MATCHES.names)
def test_draws_hold_as_many_other_units_of_each_block_and_kind(subject: Subject, match: str) -> None:
    model, batch = subject.model, subject.batches["left"]
    control = random_units(model, LIKE, match=match, draws=6, seed=3, batch=batch)
    assert len({frozenset(units) for units in control}) == len(control) == 6
    for units in control:
        assert len(units) == len(LIKE)
        assert units.isdisjoint(LIKE)
        assert [unit.hook for unit in units] == [unit.hook for unit in LIKE]
        assert Units.of(units, model) == units
    again = random_units(model, list(map(str, LIKE)), match=match, draws=6, seed=3, batch=batch)
    assert list(again) == list(control)
    assert list(random_units(model, LIKE, match=match, draws=6, seed=4, batch=batch)) != list(control)


def test_all_sets_are_given_where_there_are_fewer(llava: Subject) -> None:
    control = random_units(llava.model, "L0.h1", draws=20)
    assert {units[0] for units in control} == {Head(0, 0), Head(0, 2), Head(0, 3)}
    assert repr(control) == "RandomUnits(3 draws, all there are, of 1 heads in L0; matched by block; seed 0)"
    pairs = random_units(llava.model, ["L0.u0", "L0.h1"], draws=1000)
    assert len(pairs) == 47 * 3
    half = Units(Neuron(0, index) for index in range(46))  # one set of two is left
    assert len(random_units(llava.model, half[:2], draws=5000)) == comb(46, 2)
    with pytest.raises(
        InputError, match=r"^Too few other units are left to match these by \(L0 2 for 46\); match fewer"
    ):
        random_units(llava.model, half)


@torch.no_grad()
def test_activation_matches_the_mean_size_of_a_run(llava: Subject) -> None:
    model, batch = llava.model, llava.batches["left"]
    like = Units(["L1.u3", "L1.u40", "L2.h1"])
    rule = mm.controls.Activation(nearest=3)
    control = random_units(model, like, match=rule, draws=4, batch=batch)
    _, cache = model.run_with_cache(batch, names=["blocks.1.mlp.hook_post", "blocks.2.attn.hook_z"])
    mask = batch.layout.is_token
    neurons = cache["blocks.1.mlp.hook_post"][mask].abs().mean(0)
    heads = cache["blocks.2.attn.hook_z"][mask].norm(dim=-1).mean(0)
    size = {unit: float(heads[unit.index] if isinstance(unit, Head) else neurons[unit.index]) for unit in like}
    assert control.size == pytest.approx(sum(size.values()) / 3, rel=1e-5)
    for number in range(48):
        size[Neuron(1, number)] = float(neurons[number])
    for number in range(4):
        size[Head(2, number)] = float(heads[number])
    for units, mean in zip(control, control.sizes, strict=True):
        assert mean == pytest.approx(sum(size[unit] for unit in units) / 3, rel=1e-5)
        for own, other in zip(like, units, strict=True):
            others = [unit for unit in size if unit.hook == own.hook and unit not in like]
            nearest = sorted(others, key=lambda unit, own=own: abs(size[unit] - size[own]))  # type: ignore[misc]
            assert other in nearest[:4]  # three, or one more where the other neuron took one of them


@torch.no_grad()
def test_write_norm_matches_the_weights(llava: Subject) -> None:
    bare = llava.bare.model.language_model.layers
    rows = bare[1].mlp.down_proj.weight.norm(dim=0)
    heads = bare[2].self_attn.o_proj.weight.unflatten(1, (4, 8)).norm(dim=(0, 2))
    control = random_units(llava.model, ["L1.u3", "L2.h1"], match="write_norm", draws=2)
    assert control.size == pytest.approx(float(rows[3] + heads[1]) / 2, rel=1e-5)
    for units, mean in zip(control, control.sizes, strict=True):
        neuron, head = units
        assert mean == pytest.approx(float(rows[neuron.index] + heads[head.index]) / 2, rel=1e-5)
        nearest = (rows - rows[3]).abs().argsort()[1:11]
        assert neuron.index in nearest
    assert "matched by norm of the weights they write with" in repr(control)


@torch.no_grad()
@pytest.mark.parametrize("match", MATCHES.names)
def test_matched_neurons_do_not_do_what_the_planted_one_does(planted_neuron: Wrapped, match: str) -> None:
    model, truth, batch = planted_neuron.model, planted_neuron.truth, planted_neuron.batch()
    planted = Neuron(truth.layer, truth.neuron)
    clean = model(batch)[0, -1]
    with model.intervene(Ablate(str(planted))):
        assert model(batch)[0, -1].argmax() == truth.default_token
    for units in random_units(model, planted, match=match, draws=20, batch=batch):
        with model.intervene(Ablate(units)):
            torch.testing.assert_close(model(batch)[0, -1], clean, atol=0.2, rtol=0)


@torch.no_grad()
def test_matched_heads_do_not_do_what_the_planted_one_does(planted_patch: Wrapped) -> None:
    model, truth, batch = planted_patch.model, planted_patch.truth, planted_patch.batch()
    planted = Head(truth.head_layer, truth.head)
    with model.intervene(Ablate(str(planted))):
        assert model(batch)[0, -1].argmax() == truth.default_token
    control = random_units(model, planted, draws=20)
    assert control.complete
    for units in control:
        assert isinstance(units[0], Head)
        with model.intervene(Ablate(units)):
            assert model(batch)[0, -1].argmax() == truth.token


def test_what_cannot_be_matched_is_refused(llava: Subject) -> None:
    for settings, message in (
        ({"like": []}, "random_units was given no units"),
        ({"like": "L9.u1"}, "The model has no L9.u1"),
        ({"draws": 0}, "draws=0 must be at least 1"),
        ({"match": "activation"}, r"match='activation' is measured on samples: pass batch="),
    ):
        with pytest.raises(InputError, match=message):
            random_units(llava.model, **{"like": "L1.u1", **settings})  # type: ignore[arg-type]
    with pytest.raises(UnknownNameError, match=r"match='activations' is unknown.*nearest: 'activation'"):
        random_units(llava.model, "L1.u1", match="activations")


def test_the_distribution_of_draws(llava: Subject) -> None:
    control = random_units(llava.model, "L1.u1", draws=3)
    assert isinstance(control, RandomUnits)
    found = control.interval([0.0, 1.0, 2.0])
    assert (found.mean, found.count) == (1.0, 3)
    assert (found.low, found.high) == pytest.approx((0.05, 1.95))
    assert control[:2] == control.draws[:2]
    with pytest.raises(InputError, match="There are 3 draws and 2 values"):
        control.interval([1.0, 2.0])
