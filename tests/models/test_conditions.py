"""Models as people have them: with an adapter, in half precision, spread over devices and disk, checkpointed, compiled, int8."""

import warnings
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from accelerate import cpu_offload, disk_offload

from mmlens.core.errors import UnsupportedModelError
from mmlens.models.hooked import HookedMultimodal
from mmlens.models.verify import verify
from tests.conftest import LONG, SHORT, Subject, bare_copy
from tests.tiny import picture


def batch_of(model: HookedMultimodal) -> Any:
    return model.prepare([SHORT, LONG], images=[[picture(0)], [picture(1)]])


def with_adapter(subject: Subject, targets: tuple[str, ...] = ("q_proj", "down_proj")) -> Any:
    """The family's weights with a LoRA adapter that changes the logits."""
    config = peft.LoraConfig(r=2, target_modules=list(targets), lora_alpha=4, init_lora_weights=False)
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft's advice about configurations without a name
        return peft.get_peft_model(bare_copy(subject.model), config).eval()


@torch.no_grad()
def test_an_adapter_on_off_and_merged_runs_on_the_same_hooks(llava: Subject) -> None:
    adapted = with_adapter(llava)
    model = HookedMultimodal.from_hf(adapted, llava.model.processor)
    assert model.graph.names == llava.model.graph.names
    batch = batch_of(model)
    name = "blocks.1.mlp.hook_post"
    off_logits, off = llava.model.run_with_cache(batch, names=name)
    on_logits, on = model.run_with_cache(batch, names=name)
    assert torch.equal(on_logits, adapted(**batch, use_cache=False).logits)
    assert not torch.allclose(on_logits, off_logits)
    with adapted.disable_adapter():
        assert torch.equal(model(batch), off_logits)
        assert torch.equal(model.run_with_cache(batch, names=name)[1][name], off[name])
    merged = HookedMultimodal.from_hf(adapted.merge_and_unload(), llava.model.processor)
    merged_logits, kept = merged.run_with_cache(batch, names=name)
    torch.testing.assert_close(merged_logits, on_logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(kept[name], on[name], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_weights_under_an_adapter_are_those_that_act(llava: Subject) -> None:
    adapted = with_adapter(llava)
    model = HookedMultimodal.from_hf(adapted, llava.model.processor)
    acting = model.blocks[0].mlp.W_out.clone()
    with adapted.disable_adapter():
        assert torch.equal(model.blocks[0].mlp.W_out, llava.model.blocks[0].mlp.W_out)
    merged = HookedMultimodal.from_hf(adapted.merge_and_unload())
    torch.testing.assert_close(acting, merged.blocks[0].mlp.W_out)
    assert not torch.allclose(acting, llava.model.blocks[0].mlp.W_out)


def test_an_adapted_model_is_verified(llava: Subject) -> None:
    model = HookedMultimodal.from_hf(
        with_adapter(llava, ("q_proj", "v_proj", "down_proj", "fc1")), llava.model.processor
    )
    assert verify(model, batch_of(model), progress=False).ok


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_half_precision(subject: Subject, dtype: torch.dtype) -> None:
    bare = bare_copy(subject.model).to(dtype)
    model = HookedMultimodal.from_hf(bare, subject.model.processor)
    batch = subject.batches["left"]
    inputs = {name: t.to(dtype) if t.is_floating_point() else t for name, t in batch.items()}
    expected = bare_copy(subject.model).to(dtype)(**inputs, use_cache=False).logits
    assert torch.equal(model(**inputs), expected)
    with model.hooks([("blocks.1.hook_resid_mid", lambda a, hook: torch.zeros_like(a))]):
        assert not torch.equal(model(**inputs), expected)


@torch.no_grad()
@pytest.mark.parametrize("where", ["cpu", "disk"])
def test_weights_that_come_in_when_they_are_needed(llava: Subject, where: str, tmp_path: Path) -> None:
    bare = bare_copy(llava.model)
    if where == "cpu":
        cpu_offload(bare, execution_device=torch.device("cpu"))
    else:
        disk_offload(bare, str(tmp_path), execution_device=torch.device("cpu"))
    model = HookedMultimodal.from_hf(bare, llava.model.processor)
    batch = llava.batches["left"]
    clean, kept = llava.model.run_with_cache(batch)
    logits, cache = model.run_with_cache(batch)
    torch.testing.assert_close(logits, clean)
    for name, value in cache.items():
        torch.testing.assert_close(value, kept[name], msg=name)
    zero = [("vision.blocks.1.hook_resid_post", lambda a, hook: torch.zeros_like(a))]
    torch.testing.assert_close(
        model.run_with_hooks(batch, fwd_hooks=zero), llava.model.run_with_hooks(batch, fwd_hooks=zero)
    )


def test_offloaded_weights_cannot_be_read_and_say_so(llava: Subject, tmp_path: Path) -> None:
    bare = bare_copy(llava.model)
    disk_offload(bare, str(tmp_path), execution_device=torch.device("cpu"))
    model = HookedMultimodal.from_hf(bare, llava.model.processor)
    with pytest.raises(UnsupportedModelError, match="is offloaded, so its numbers are not in memory"):
        _ = model.blocks[0].mlp.W_out


def test_gradient_checkpointing_gives_the_same_gradients_at_hooks(llava: Subject) -> None:
    def gradient(model: HookedMultimodal) -> torch.Tensor:
        kept: list[torch.Tensor] = []
        with model.hooks(bwd_hooks=[("blocks.1.hook_resid_post", lambda g, hook: kept.append(g.clone()))]):
            model(llava.batches["left"])[:, -1].logsumexp(-1).sum().backward()
        return kept[0]

    bare = bare_copy(llava.model)
    bare.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    bare.train()
    checkpointed = HookedMultimodal.from_hf(bare, llava.model.processor)
    torch.testing.assert_close(gradient(checkpointed), gradient(llava.model))


def test_a_compiled_model_is_refused_with_the_reason(llava: Subject) -> None:
    bare = bare_copy(llava.model)
    compiled = torch.compile(bare, backend="eager")
    with pytest.raises(UnsupportedModelError, match=r"LlavaForConditionalGeneration|OptimizedModule.*torch\.compile"):
        HookedMultimodal.from_hf(compiled, llava.model.processor)
    bare.model.language_model = torch.compile(bare.model.language_model, backend="eager")
    with pytest.raises(UnsupportedModelError, match=r"model\.language_model.*torch\.compile"):
        HookedMultimodal.from_hf(bare, llava.model.processor)
