"""Dropout at work is refused by name in every run; wrapping leaves every module in its mode."""

from typing import Any

import peft
import pytest
import torch
from torch import nn

import mmlens as mm
from mmlens.core.errors import InputError
from tests.conftest import SHORT, bare_copy
from tests.tiny import TINY, VOCAB, picture


@pytest.fixture
def own() -> Any:
    """A LLaVA of the test's own, without a hook of the test's."""
    model = TINY[0].make()
    return model.hf_model, model.processor


def red(logits: torch.Tensor) -> torch.Tensor:
    """The logit of a word."""
    return logits[:, VOCAB["red"]]


def modes(model: nn.Module) -> dict[str, bool]:
    return {name: module.training for name, module in model.named_modules()}


def refusals(model: mm.HookedMultimodal, words: str) -> None:
    """Every run and every analysis says the same, before anything ran."""
    batch = model.prepare(SHORT, images=picture(0))
    other = model.prepare(SHORT, images=picture(1))
    at = "blocks.1.hook_resid_pre"
    calls: list[Any] = [
        lambda: model(batch),
        lambda: model.run_with_cache(batch),
        lambda: model.generate(batch, max_new_tokens=1),
        lambda: model.trace_generation(batch),
        lambda: model.caption(picture(0)),
        lambda: mm.patch(model, batch, other, at=at, metric=red),
        lambda: mm.attribute(model, batch, other, at=at, metric=red),
        lambda: mm.find_circuit(model, (batch, other), metric=red),
        lambda: mm.knock_out(model, batch, queries="last", keys="image", metric=red),
        lambda: mm.find_neurons(model, batch, token="red"),
        lambda: mm.collect(model, [{"image": picture(0)}], at=at, positions="last", prompt=SHORT),
        lambda: mm.attention_map(model, batch),
        lambda: mm.logit_lens(model, batch),
        lambda: mm.verify(model, progress=False),
    ]
    for call in calls:
        with pytest.raises(InputError, match=words):
            call()


def test_a_dropout_module_in_training_mode_is_named(own: Any) -> None:
    hf_model, processor = own
    hf_model.model.multi_modal_projector.act = nn.Sequential(hf_model.model.multi_modal_projector.act, nn.Dropout(0.1))
    model = mm.HookedMultimodal.from_hf(hf_model, processor)
    model.prepare(SHORT, images=picture(0))
    model.train()
    refusals(model, r"^Dropout is at work in 1 places, .*: model.multi_modal_projector.act.1 \(p=0.1\). model.eval\(\)")
    model.eval()
    model(model.prepare(SHORT, images=picture(0)))


def test_dropout_of_attention_is_named_and_training_mode_without_it_is_fine(own: Any) -> None:
    hf_model, processor = own
    model = mm.HookedMultimodal.from_hf(hf_model.train(), processor)
    batch = model.prepare(SHORT, images=picture(0))
    assert torch.equal(model(batch), model(batch))
    layer = hf_model.model.language_model.layers[1].self_attn
    layer.attention_dropout = 0.25
    with pytest.raises(InputError, match=r"language_model.layers.1.self_attn \(attention_dropout=0.25\)"):
        model(batch)
    layer.eval()
    model(batch)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # which peft asks for
@pytest.mark.filterwarnings("ignore:.*merge:UserWarning")
def test_dropout_of_an_adapter_counts_while_the_adapter_acts(own: Any) -> None:
    hf_model, processor = own
    before = modes(hf_model)
    tuned = peft.get_peft_model(
        hf_model, peft.LoraConfig(target_modules="all-linear", lora_dropout=0.1, init_lora_weights=False)
    )
    trained = modes(tuned)
    assert trained["base_model.model.model.language_model.layers.0.self_attn.q_proj.lora_dropout.default"]
    model = mm.HookedMultimodal.from_hf(tuned, processor)
    assert modes(tuned) == trained
    assert not any(before.values())
    batch = model.prepare(SHORT, images=picture(0))
    with pytest.raises(
        InputError, match=r"lora_dropout.default \(p=0.1\).*get_peft_model leaves its layers in training"
    ):
        mm.patch(model, batch, batch, at="blocks.1.hook_resid_pre", metric=red)
    with model.adapter(None):
        model(batch)
    tuned.eval()
    assert len({model.caption(picture(0)) for _ in range(3)}) == 1
    tuned.train()
    tuned.merge_adapter()
    model(batch)


def test_wrapping_and_discovery_leave_every_module_in_its_mode(own: Any) -> None:
    hf_model, processor = own
    hf_model.train()
    hf_model.model.vision_tower.eval()
    expected = modes(hf_model)
    model = mm.HookedMultimodal.from_hf(hf_model, processor)
    assert modes(hf_model) == expected
    assert model.training
    assert modes(mm.HookedMultimodal.from_hf(bare_copy(model), processor).hf_model) == dict.fromkeys(expected, False)
