"""Contract: mmlens leaves no trace. Its hooks go, everybody else's stay, also after an exception or Ctrl-C."""

from typing import Any

import pytest
import torch

from mmlens.core.errors import UnknownNameError
from mmlens.models.hooked import HookedMultimodal
from tests.conftest import SHORT, Subject, bare_copy, rounded
from tests.tiny import TINY, picture

NAMES = ["vision.blocks.0.attn.hook_pattern", "blocks.1.hook_resid_mid", "blocks.0.ln1.hook_scale", "hook_logits"]


def trace_of(model: HookedMultimodal) -> dict[str, Any]:
    """Everything that a hook could leave behind: torch hooks, kernels, forwards, weights, the points' own state."""
    modules = dict(model.hf_model.named_modules())
    return {
        "hooks": {
            n: (list(m._forward_hooks), list(m._forward_pre_hooks), list(m._backward_hooks)) for n, m in modules.items()
        },
        "kernels": {n: m.config._attn_implementation for n, m in modules.items() if hasattr(m, "config")},
        "classes": {n: type(m) for n, m in modules.items()},
        "forwards": {n: "forward" in vars(m) for n, m in modules.items()},
        "weights": {n: (p.data_ptr(), p._version) for n, p in model.hf_model.named_parameters()},
        "points": {n: (p.attached, len(p.fwd_hooks), len(p.bwd_hooks)) for n, p in model.hook_dict.items()},
    }


def double(activation: torch.Tensor, hook: Any) -> torch.Tensor:
    return activation * 2


@pytest.fixture
def own() -> tuple[HookedMultimodal, Any]:
    """A LLaVA of the test's own, and a batch."""
    model = TINY[0].make()
    batch = model.prepare(SHORT, images=picture(0))
    with torch.no_grad():
        model(batch)  # LLaVA asks for hidden states, so the first forward installs Hugging Face's own recorders
    return model, batch


@torch.no_grad()
def test_every_run_method_leaves_the_model_as_it_was(subject: Subject) -> None:
    model, batch = subject.model, subject.batches["left"]
    model(batch)  # see `own`
    before = trace_of(model)
    model.run_with_hooks(batch, fwd_hooks=[("*", double)])
    model.run_with_cache(batch, names="*")
    model.trace_generation(batch, max_new_tokens=2)
    with model.hooks([("*", lambda a, hook: None)]):
        model.generate(batch, max_new_tokens=2)
    assert trace_of(model) == before


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, torch.OutOfMemoryError])
@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_after_an_exception_inside_a_hook(own: Any, error: type[BaseException], name: str) -> None:
    model, batch = own
    before, expected = trace_of(model), model(batch)

    def fail(activation: torch.Tensor, hook: Any) -> None:
        raise error("inside")

    for run in (
        lambda: model.run_with_hooks(batch, fwd_hooks=[("*", double), (name, fail)]),
        lambda: model.generate(batch, max_new_tokens=2),
    ):
        with pytest.raises(error, match="inside"), model.hooks([(name, fail)]):
            run()
    assert trace_of(model) == before
    assert torch.equal(model(batch), expected)


@torch.no_grad()
def test_nothing_is_attached_when_one_of_several_names_is_unknown(own: Any) -> None:
    model, _ = own
    before = trace_of(model)
    with pytest.raises(UnknownNameError), model.hooks([("*", double), ("blocks.9.hook_resid_pre", double)]):
        pass
    assert trace_of(model) == before


@torch.no_grad()
def test_nested_sessions_remove_their_own_hooks_only(own: Any) -> None:
    model, batch = own
    outer_alone = model.run_with_hooks(batch, fwd_hooks=[("blocks.0.attn.hook_pattern", double)])
    before = trace_of(model)
    with model.hooks([("blocks.0.attn.hook_pattern", double)]):
        inside = trace_of(model)
        with model.hooks([("blocks.0.attn.hook_pattern", double), ("blocks.1.attn.hook_z", double), ("*", double)]):
            assert not torch.equal(model(batch), outer_alone)
        assert trace_of(model) == inside
        assert torch.equal(model(batch), outer_alone)
    assert trace_of(model) == before


@torch.no_grad()
def test_hooks_of_the_user_stay(own: Any) -> None:
    model, batch = own
    block = model.hf_model.model.language_model.layers[0]
    calls: list[str] = []
    block.register_forward_hook(lambda module, args, output: calls.append("torch"))
    block.register_forward_pre_hook(lambda module, args: calls.append("torch pre"))
    model.hook_dict["blocks.0.hook_resid_post"].add_hook(lambda a, hook: calls.append("point"))
    before = trace_of(model)
    model.run_with_cache(batch)
    with model.hooks([("blocks.0.hook_resid_*", double)]):
        pass
    assert trace_of(model) == before
    calls.clear()
    model(batch)
    assert sorted(calls) == ["point", "torch", "torch pre"]
    model.reset_hooks()
    calls.clear()
    model(batch)
    assert sorted(calls) == ["torch", "torch pre"]


@torch.no_grad()
def test_handles_can_be_removed_twice_and_remove_one_hook_each(own: Any) -> None:
    model, batch = own
    clean = model(batch)
    for name in NAMES:
        point = model.hook_dict[name]
        first, second = point.add_hook(double), point.add_hook(double)
        first.hook.remove()
        first.hook.remove()
        assert point.attached
        assert len(point.fwd_hooks) == 1
        once = model(batch)
        assert torch.equal(once, model.run_with_hooks(batch, fwd_hooks=[(name, lambda a, hook: None)]))
        second.hook.remove()
        second.hook.remove()
        assert not point.attached
        assert torch.equal(once, model.run_with_hooks(batch, fwd_hooks=[(name, double)]))
        assert torch.equal(model(batch), clean)


@torch.no_grad()
def test_reset_hooks_takes_all_but_permanent_hooks_off(own: Any) -> None:
    model, batch = own
    clean, before = model(batch), trace_of(model)
    model.add_hook("blocks.*.hook_mlp_out", double)
    model.add_hook("blocks.1.attn.hook_pattern", double)
    assert not torch.equal(model(batch), clean)
    model.reset_hooks()
    assert trace_of(model) == before
    assert torch.equal(model(batch), clean)
    model.add_hook("hook_embed", double, is_permanent=True)
    model.reset_hooks()
    assert not torch.equal(model(batch), clean)
    model.reset_hooks(including_permanent=True)
    assert torch.equal(model(batch), clean)


@torch.no_grad()
def test_two_wrappers_of_one_model_do_not_disturb_each_other(own: Any) -> None:
    model, batch = own
    other = HookedMultimodal.from_hf(model.hf_model, model.processor)
    for name in NAMES:
        alone = model.run_with_hooks(batch, fwd_hooks=[(name, double)])
        with other.hooks([(name, lambda a, hook: None)]):
            again = model.run_with_hooks(batch, fwd_hooks=[(name, double)])
            torch.testing.assert_close(again, alone, atol=rounded(model, batch), rtol=0)
            assert model.hf_model.config.text_config._attn_implementation == "sdpa"
            with model.hooks([(name, double)]):
                pass
        assert not any(point.attached for point in other.hook_dict.values())
    first = other.hook_dict["blocks.0.attn.hook_pattern"].add_hook(double)
    second = model.hook_dict["blocks.0.attn.hook_pattern"].add_hook(double)
    first.hook.remove()
    clean = bare_copy(model)(**batch).logits
    assert not torch.equal(model(batch), clean)
    second.hook.remove()
    assert torch.equal(model(batch), clean)


@torch.no_grad()
def test_two_models_at_once_keep_their_kernels_apart(own: Any) -> None:
    model, batch = own
    eager = HookedMultimodal.from_hf(bare_copy(model, "eager"), model.processor)
    with model.hooks([("**.hook_pattern", double)]):
        assert {m.config._attn_implementation for m in eager.hf_model.modules() if hasattr(m, "config")} == {"eager"}
        torch.testing.assert_close(eager(batch), bare_copy(model, "eager")(**batch).logits, atol=0, rtol=0)


def test_permanent_point_hooks_and_weights_survive_a_training_step(own: Any) -> None:
    """A hooked model trains like the bare one: same gradients for every weight."""
    model, batch = own
    bare = bare_copy(model)
    bare(**batch).logits.pow(2).mean().backward()
    with model.hooks([(model.default_points.names, lambda a, hook: None)]):
        model(batch).pow(2).mean().backward()
    expected = {name: p.grad for name, p in bare.named_parameters()}
    for name, parameter in model.hf_model.named_parameters():
        if expected[name] is None:
            assert parameter.grad is None or not parameter.grad.any()
        else:
            torch.testing.assert_close(parameter.grad, expected[name], atol=1e-6, rtol=1e-4, msg=name)
