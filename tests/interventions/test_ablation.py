"""Ablating neurons and heads: against weights set to zero by hand, and what is refused."""

from typing import Any

import pytest
import torch

from mmlens.core.errors import InputError
from mmlens.core.unit_sets import Units
from mmlens.core.units import Head, Neuron
from mmlens.interventions.ablation import Ablate
from tests.conftest import Subject


@torch.no_grad()
def test_ablating_a_neuron_equals_a_zero_row_of_the_down_projection(subject: Subject) -> None:
    batch = subject.batches["left"]
    neurons = [Neuron(0, 3), Neuron(2, 1), Neuron(2, 40)]
    with subject.model.intervene(Ablate(neurons)):
        ablated = subject.model(batch)
    blocks = subject.bare.get_submodule(subject.model.family.language.stack.path)
    saved = [blocks[n.layer].mlp.down_proj.weight[:, n.index].clone() for n in neurons]
    try:
        for n in neurons:
            blocks[n.layer].mlp.down_proj.weight[:, n.index] = 0
        expected = subject.bare(**batch).logits
    finally:
        for n, column in zip(neurons, saved, strict=True):
            blocks[n.layer].mlp.down_proj.weight[:, n.index] = column
    real = batch.layout.is_token
    torch.testing.assert_close(ablated[real], expected[real], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(ablated[real], subject.model(batch)[real], atol=1e-3)


@torch.no_grad()
def test_ablating_a_head_equals_zero_columns_of_the_output_projection(subject: Subject) -> None:
    batch = subject.batches["left"]
    with subject.model.intervene(Ablate([Head(1, 2)])):
        ablated = subject.model(batch)
    weight = subject.bare.get_submodule(subject.model.family.language.stack.path)[1].self_attn.o_proj.weight
    saved = weight.clone()
    try:
        weight[:, 16:24] = 0
        expected = subject.bare(**batch).logits
    finally:
        weight.copy_(saved)
    real = batch.layout.is_token
    torch.testing.assert_close(ablated[real], expected[real], rtol=1e-4, atol=1e-4)


def test_units_of_every_tower_are_ablated(subject: Subject) -> None:
    batch = subject.batches["left"]
    plain = subject.model(batch)
    with subject.model.intervene(Ablate([Neuron(1, 2, "vision"), Head(0, 1, "vision")])):
        assert not torch.equal(subject.model(batch), plain)
    assert torch.equal(subject.model(batch), plain)


def test_ablation_holds_through_generation(llava: Subject) -> None:
    batch = llava.batches["left"]
    neurons = [Neuron(layer, i) for layer in range(3) for i in range(48)]
    with llava.model.intervene(Ablate(neurons)):
        trace = llava.model.trace_generation(batch, names="blocks.*.hook_mlp_out", max_new_tokens=4)
    assert all(states.abs().max() == 0 for states in trace.states.values())


@pytest.mark.parametrize("units", [3, [(2, 7)], None, [None], [], "2.7", ["L2.u7", 3]])
def test_what_is_no_unit_is_refused_at_construction(units: Any) -> None:
    with pytest.raises(InputError, match=r"no unit|no neurons or heads"):
        Ablate(units)


@pytest.mark.parametrize("units", ["L3.u0", [Neuron(0, 48), "L0.h4"], Neuron(0, 10**9), "nope.L0.u1", "vision.L0.x1"])
def test_units_that_do_not_exist_are_refused(llava: Subject, units: Any) -> None:
    with pytest.raises(InputError, match=r"^The model has no .*; it has "), llava.model.intervene(Ablate(units)):
        pass


@torch.no_grad()
def test_units_are_taken_one_by_one_in_sets_and_by_name(llava: Subject) -> None:
    model, batch = llava.model, llava.batches["left"]
    with model.intervene(Ablate([Neuron(1, 3), Head(0, 2)], value=[0.5, 1.0])):
        expected = model(batch)
    for units in (["L1.u3", "L0.h2"], Units(["L1.u3", "L0.h2"]), iter([Neuron(1, 3), "L0.h2"]), ("L1.u3", Head(0, 2))):
        with model.intervene(Ablate(units, value=[0.5, 1.0])):
            assert torch.equal(model(batch), expected)
    with model.intervene(Ablate("L1.u3")):
        one = model(batch)
    with model.intervene(Ablate(Neuron(1, 3))):
        assert torch.equal(model(batch), one)
    assert not torch.equal(one, expected)


def test_a_unit_has_one_value() -> None:
    neuron = Neuron(0, 1)
    with pytest.raises(InputError, match=r"Ablate was given L0\.u1 twice, with different values: 5 and -5; keep one"):
        Ablate([neuron, neuron], value=[5, -5])
    same = Ablate([neuron, "L0.u2", neuron], value=[5, 1, 5])
    assert list(same.units) == [neuron, Neuron(0, 2)]
    assert same.value == [5, 1]


@torch.no_grad()
def test_each_unit_gets_its_own_value(subject: Subject) -> None:
    batch, model = subject.batches["left"], subject.model
    head = torch.linspace(-1, 1, 8)
    units = [Neuron(1, 3), Neuron(1, 0), Head(0, 2)]
    with model.intervene(Ablate(units, value=[0.5, torch.tensor(-2.0), head])):
        _, cache = model.run_with_cache(batch, names=["blocks.1.mlp.hook_post", "blocks.0.attn.hook_z"])
    assert (cache["blocks.1.mlp.hook_post"][..., 3] == 0.5).all()
    assert (cache["blocks.1.mlp.hook_post"][..., 0] == -2.0).all()
    assert torch.equal(cache["blocks.0.attn.hook_z"][:, :, 2], head.expand(2, batch.layout.length("language"), 8))


def test_values_and_units_must_fit(llava: Subject) -> None:
    for units, value, message in (
        ([Neuron(0, 1), Neuron(0, 2)], [1.0], "was given 2 units and 1 values; give one each"),
        ([Head(0, 1)], [torch.zeros(5)], r"value of L0.h1 must be a number or \[d_head=8\], found shape \[5\]"),
        ([Neuron(0, 1)], [torch.zeros(2)], r"value of L0.u1 must be a number, found shape \[2\]"),
    ):
        with pytest.raises(InputError, match=message), llava.model.intervene(Ablate(units, value=value)):
            pass


def test_values_are_not_printed() -> None:
    """There may be a tensor for every unit."""
    assert "value" not in repr(Ablate([Neuron(0, 1), Neuron(0, 2)], value=torch.tensor([0.1, 0.2])))
