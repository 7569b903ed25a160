"""Ablating and replacing: what exactly changes, and what is refused."""

import pytest
import torch

from mmlens.core.errors import InputError
from mmlens.core.places import Head, Neuron
from mmlens.interventions.activations import Ablate, Replace
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


@pytest.mark.parametrize("rows", [torch.tensor([1, 4]), torch.tensor([[1, 4], [0, 2]]), None])
def test_replacing_touches_exactly_the_rows_asked_for(llava: Subject, rows: torch.Tensor | None) -> None:
    batch = llava.batches["left"]
    name = "blocks.1.hook_resid_pre"
    _, clean = llava.model.run_with_cache(batch, names=name)
    values = torch.full_like(clean[name], 7.0)
    with llava.model.intervene(Replace(name, values, rows)):
        _, cache = llava.model.run_with_cache(batch, names=name)
    changed = (cache[name] != clean[name]).any(-1)
    expected = torch.zeros_like(changed)
    for sample in range(2):
        expected[sample, slice(None) if rows is None else rows if rows.ndim == 1 else rows[sample]] = True
    assert torch.equal(changed, expected)
    assert (cache[name][expected] == 7).all()


@pytest.mark.parametrize(
    ("units", "message"),
    [
        ([], "was given no neurons or heads"),
        ([Neuron(3, 0)], r"The model has no L3.u0; it has language: 3 layers of 48 neurons and 4 heads"),
        ([Neuron(0, 48), Head(0, 4), Neuron(0, 1)], r"The model has no L0.u48, L0.h4; it has"),
        ([Neuron(0, -1)], "no L0.u-1"),
        ([Neuron(7, 0, "vision")], "no vision.L7.u0; it has vision: 3 layers of 40 neurons and 2 heads"),
    ],
)
def test_units_that_do_not_exist_are_refused(llava: Subject, units: list[Neuron | Head], message: str) -> None:
    with pytest.raises(InputError, match=message), llava.model.intervene(Ablate(units)):
        pass


def test_values_that_do_not_fit_are_refused(llava: Subject) -> None:
    with (
        pytest.raises(
            InputError, match=r"values for hook_embed must be \[batch pos d_model\] with 32 last, found \[2, 5, 8\]"
        ),
        llava.model.intervene(Replace("hook_embed", torch.zeros(2, 5, 8))),
    ):
        pass
    with (
        pytest.raises(InputError, match="rows go up to 9, but hook_embed has 5 positions"),
        llava.model.intervene(Replace("hook_embed", torch.zeros(2, 5, 32), torch.tensor([9]))),
    ):
        pass
