"""A copied hooked model is one of its own: its hooks act on it, and on it alone."""

import copy

import pytest
import torch

from mmlens.core.errors import InputError
from mmlens.core.units import Neuron
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
