"""Edits in force while a model is cast, loaded into or interrupted: every weight has its own bits afterwards, in its dtype."""

import signal
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import mmlens as mm
from mmlens.core.errors import InputError
from mmlens.models.edit_ledger import Ledger
from mmlens.models.hooked import HookedMultimodal
from tests.tiny import TINY

ROWS = ["L0.u3", "L2.u7", "L2.u40"]
EDITED = "model.language_model.layers.2.mlp.down_proj.weight"

CASTS: dict[str, tuple[Callable[[nn.Module], Any], torch.dtype]] = {
    "to(bfloat16)": (lambda m: m.to(torch.bfloat16), torch.bfloat16),
    "half()": (lambda m: m.half(), torch.float16),
    "double()": (lambda m: m.double(), torch.float64),
    "to(cpu, bfloat16)": (lambda m: m.to("cpu", torch.bfloat16), torch.bfloat16),
}


@pytest.fixture
def model() -> HookedMultimodal:
    return TINY[0].make()


@pytest.fixture
def edit(model: HookedMultimodal) -> Any:
    return mm.edits.noise_neurons(model, ROWS, sigma=0.5, seed=0)


def weights(model: HookedMultimodal) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in model.hf_model.named_parameters()}


def require_same(model: HookedMultimodal, expected: dict[str, torch.Tensor]) -> None:
    for name, weight in model.hf_model.named_parameters():
        assert weight.dtype == expected[name].dtype, name
        assert torch.equal(weight, expected[name]), name


@pytest.mark.parametrize("of", ["wrapper", "model"])
@pytest.mark.parametrize("cast", CASTS)
def test_a_cast_inside_leaves_the_bits_of_a_cast_without_the_edit(
    model: HookedMultimodal, edit: Any, cast: str, of: str
) -> None:
    function, dtype = CASTS[cast]
    expected = {name: weight.to(dtype) for name, weight in weights(model).items()}
    row = weights(model)[EDITED][:, 7]
    with model.edited(edit):
        function(model if of == "wrapper" else model.hf_model)
        assert not torch.equal(dict(model.hf_model.named_parameters())[EDITED][:, 7], row.to(dtype))
        assert model.edits == (edit,)
    assert model.edits == ()
    require_same(model, expected)


def test_a_cast_there_and_back_leaves_edited_rows_what_they_were(model: HookedMultimodal, edit: Any) -> None:
    before = weights(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a cast is no change that the edit would lose
        with model.edited(edit):
            model.to(torch.bfloat16).to(torch.float32)
    after = weights(model)
    rounded = {name: weight.to(torch.bfloat16).to(torch.float32) for name, weight in before.items()}
    for layer, rows in ((0, [3]), (2, [7, 40])):
        name = EDITED.replace("layers.2", f"layers.{layer}")
        rounded[name][:, rows] = before[name][:, rows]
    require_same(model, rounded)
    assert not torch.equal(after[EDITED], before[EDITED])


def test_an_edit_that_comes_after_a_cast_composes_with_one_from_before(model: HookedMultimodal, edit: Any) -> None:
    before = weights(model)
    model.apply(edit)
    model.to(torch.bfloat16)
    other = mm.edits.noise_neurons(model, ["L2.u7", "L2.u8"], sigma=0.5, seed=1)
    model.apply(other)
    row = before[EDITED][:, 7] + edit.deltas[1] + other.deltas[0]
    found = dict(model.hf_model.named_parameters())[EDITED]
    assert torch.equal(found[:, 7], row.to(torch.bfloat16))
    model.revert(edit).revert(other)
    require_same(model, {name: weight.to(torch.bfloat16) for name, weight in before.items()})


@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("path", ["", "model", "model.language_model.layers.2", EDITED.removesuffix(".weight")])
def test_loading_over_edited_rows_is_refused_before_anything_is_loaded(
    model: HookedMultimodal, edit: Any, path: str, assign: bool
) -> None:
    base = model.hf_model
    before, module = weights(model), base.get_submodule(path)
    other = {name: tensor + 1 for name, tensor in module.state_dict().items()}
    with model.edited(edit):
        inside = weights(model)
        with pytest.raises(
            InputError, match=r"^The state dict holds .*weight, and rows of it behind blocks\.\d\.mlp\.hook_post are"
        ):
            module.load_state_dict(other, assign=assign)
        require_same(model, inside)
        keep = {name: tensor for name, tensor in other.items() if "down_proj" not in name and tensor.shape != ()}
        if path == "model.language_model.layers.2":
            module.load_state_dict(keep, strict=False, assign=assign)
            before |= {f"{path}.{name}": tensor for name, tensor in keep.items()}
    require_same(model, before)
    module.load_state_dict(other, assign=assign)  # nothing is left that would refuse it
    assert torch.equal(next(iter(module.state_dict().values())), next(iter(other.values())))


def test_parameters_that_were_exchanged_are_found(model: HookedMultimodal, edit: Any) -> None:
    """`torch.__future__.set_overwrite_module_params_on_conversion`, and tools that put new parameters in."""
    expected = {name: weight.to(torch.bfloat16) for name, weight in weights(model).items()}
    with model.edited(edit):
        for module in model.hf_model.modules():
            for name, weight in list(module._parameters.items()):
                if weight is not None:
                    module._parameters[name] = nn.Parameter(weight.detach().to(torch.bfloat16))
    require_same(model, expected)


def test_ctrl_c_takes_effect_once_weights_are_whole(
    model: HookedMultimodal, edit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, write = weights(model), Ledger._write

    def interrupted(ledger: Ledger, *args: Any) -> None:
        signal.raise_signal(signal.SIGINT)
        write(ledger, *args)

    for entering in (True, False):
        context = model.edited(edit)
        if not entering:
            context.__enter__()
        monkeypatch.setattr(Ledger, "_write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            context.__enter__() if entering else context.__exit__(None, None, None)
        monkeypatch.undo()
        assert model.edits == ()
        require_same(model, before)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_edit_whose_rows_cannot_be_written_stays_on_the_ledger(
    model: HookedMultimodal, edit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ledger never says that nothing is in force while something is."""
    before = weights(model)
    model.apply(edit)

    def fail(*args: Any) -> None:
        raise RuntimeError("no memory")

    monkeypatch.setattr(Ledger, "_write", fail)
    with pytest.raises(RuntimeError, match="no memory"):
        model.revert(edit)
    monkeypatch.undo()
    assert model.edits == (edit,)
    model.revert(edit)
    require_same(model, before)
