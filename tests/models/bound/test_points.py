"""Points that flags switch on, against TransformerLens's bridge around a copy of the same weights, and by hand."""

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import peft
import pytest
import torch

from mmlens.core.errors import InputError, UnknownNameError
from mmlens.hooks.indirect import BeforeGain, NormScale
from mmlens.hooks.point import Point
from mmlens.hooks.site import Site
from mmlens.models.bound.model import BoundModel
from mmlens.models.hooked import HookedMultimodal
from tests.conftest import bare_copy
from tests.contracts.transformer_lens.subjects import MODELS, TEXT, Pair, pair
from tests.families import FAMILIES
from tests.models.bound.test_runs import close
from tests.tiny import picture

FLAGS = {
    "use_attn_result": ["blocks.{}.attn.hook_result"],
    "use_split_qkv_input": [f"blocks.{{}}.hook_{letter}_input" for letter in "qkv"],
    "use_attn_in": ["blocks.{}.hook_attn_in"],
    "use_hook_mlp_in": ["blocks.{}.hook_mlp_in"],
}


#: Those whose bridge has these points; for Qwen2.5-VL it has none of attention's.
BRIDGED = ["llava", "gemma3"]


@pytest.fixture(params=MODELS)
def both(request: pytest.FixtureRequest) -> Iterator[Pair]:
    """Each model with its bridge, whose flags are off afterwards."""
    made = pair(request.param)
    yield made
    for flag in FLAGS if made.name in BRIDGED else ():
        getattr(made.bridge, f"set_{flag}")(False)
    assert not any(point.attached for point in made.hooked.hook_dict.values())


def switched(both: Pair, flag: str) -> BoundModel:
    """A bound model with a flag on, on both sides where the bridge has it."""
    bound = both.hooked.bind(both.batches[TEXT])
    for model in (bound, both.bridge) if both.name in BRIDGED else (bound,):
        getattr(model, f"set_{flag}")(True)
    return bound


def negated(head: int | None) -> Any:
    """A hook that turns one head's part round, or everything."""

    def turn(activation: torch.Tensor, hook: Any) -> torch.Tensor:
        new = activation.clone()
        part = new if head is None else new[..., head, :]
        part.mul_(-1)
        return new

    return turn


@pytest.mark.parametrize("flag", FLAGS)
@pytest.mark.parametrize("both", BRIDGED, indirect=True)
@torch.no_grad()
def test_values_and_edits_are_those_of_the_bridge(both: Pair, flag: str) -> None:
    ids = both.batches[TEXT]["input_ids"]
    plain = both.hooked.bind(both.batches[TEXT])()
    bound = switched(both, flag)
    cache = bound.run_with_cache()[1]
    assert torch.equal(bound(), plain)
    theirs = both.bridge.run_with_cache(ids)[1]
    for layer in range(both.hooked.cfg.n_layers):
        for pattern in FLAGS[flag]:
            name = pattern.format(layer)
            close(cache[name], theirs[name])
            for head in (None,) if flag == "use_hook_mlp_in" else (0, cache[name].shape[2] - 1):
                found = bound.run_with_hooks(fwd_hooks=[(name, negated(head))])
                close(found, both.bridge.run_with_hooks(ids, fwd_hooks=[(name, negated(head))]))
                assert float((found - plain).abs().max()) > 1e-4, name
            same = bound.run_with_hooks(fwd_hooks=[(name, lambda activation, hook: activation)])
            assert torch.equal(same, plain), name


@pytest.mark.parametrize("both", BRIDGED, indirect=True)
def test_gradients_are_those_of_the_bridge(both: Pair) -> None:
    """Of the last logits, at each head's inputs and outputs."""
    ids = both.batches[TEXT]["input_ids"]
    for flag, patterns in FLAGS.items():
        bound = switched(both, flag)
        names = [pattern.format(1) for pattern in patterns]
        gradients: list[dict[str, torch.Tensor]] = [{}, {}]
        for model, held in zip((bound, both.bridge), gradients, strict=True):
            hooks = [(name, lambda g, hook, held=held: held.update({hook.name: g.clone()}) or None) for name in names]
            with model.hooks(bwd_hooks=hooks):
                model(ids)[0, -1].sin().sum().backward()
        assert len(gradients[0]) == len(names)
        for ours, theirs in zip(gradients[0].values(), gradients[1].values(), strict=True):
            close(ours, theirs)
        both.bridge.set_use_split_qkv_input(False)
        both.bridge.set_use_attn_in(False)
    both.hooked.hf_model.zero_grad()


@torch.no_grad()
def test_heads_write_what_the_branch_writes(both: Pair) -> None:
    bound = switched(both, "use_attn_result")
    for text in (None, "what color is the big red circle"):
        cache = bound.run_with_cache(text)[1]
        for layer in range(both.hooked.cfg.n_layers):
            weights = both.hooked.part("language").blocks[layer].attn
            assert weights is not None
            by_hand = torch.einsum("bphd,hdm->bphm", cache["z", layer], weights.W_O)
            close(cache["result", layer], by_hand)
            if both.name != "gemma3":  # a norm follows there
                close(cache["result", layer].sum(2) + weights.b_O, cache["attn_out", layer])


@torch.no_grad()
def test_switches_are_refused_where_they_cannot_be(both: Pair) -> None:
    bound = both.hooked.bind(both.batches[TEXT])
    for name, flag in (
        ("blocks.0.attn.hook_result", "use_attn_result"),
        ("blocks.0.hook_q_input", "use_split_qkv_input"),
        ("blocks.0.attn.hook_attn_in", "use_attn_in"),
        ("blocks.0.hook_mlp_in", "use_hook_mlp_in"),
    ):
        with pytest.raises(UnknownNameError, match=rf"call set_{flag}\(True\) first"):
            bound.run_with_hooks(fwd_hooks=[(name, negated(None))])
    bound.set_use_attn_in(True)
    with pytest.raises(InputError, match=r"call set_use_attn_in\(False\) first"):
        bound.set_use_split_qkv_input(True)
    bound.set_use_attn_in(False)
    bound.set_use_split_qkv_input(True)
    assert bound.flags == {"use_split_qkv_input"}
    # under the name of the attention too, as in the bridge; a hook at both runs once
    calls: list[str] = []
    bound.run_with_hooks(fwd_hooks=[(lambda name: "q_input" in name, lambda a, hook: calls.append(hook.name))])
    assert calls == [f"blocks.{layer}.hook_q_input" for layer in range(both.hooked.cfg.n_layers)]
    bound.run_with_hooks(fwd_hooks=[("blocks.1.attn.hook_q_input", lambda a, hook: calls.append(hook.name))])
    assert calls[-1] == "blocks.1.hook_q_input"
    assert not any("q_input" in name for name in both.hooked.hook_dict)


#: No norm in front (post-norm), one for both branches (parallel), no linears of heads of their own (latent).
REFUSED = {
    "kimi_k2_5": ["use_split_qkv_input"],
    "aya_vision": ["use_hook_mlp_in"],
    "florence2": ["use_split_qkv_input", "use_hook_mlp_in"],
}


@pytest.mark.parametrize("name", ["qwen3_5_moe", "kimi_k2_5", "florence2", "blip_2", "aya_vision", "glm_ocr"])
@torch.no_grad()
def test_other_families(name: str) -> None:
    """A gate beside each query, latent attention, a decoder without norms in front, fused and parallel branches."""
    tiny = next(tiny for tiny in FAMILIES if tiny.name == name)
    model = tiny.make()
    bound = model.bind(model.prepare("the red circle", images=picture(0, *tiny.sizes[0])))
    for flag in FLAGS:
        if flag == "use_attn_in":
            continue
        with contextlib.ExitStack() as stack:
            if flag in REFUSED.get(name, ()):
                stack.enter_context(
                    pytest.raises(InputError, match=f"{flag} means nothing in {model.family.name}: no block")
                )
            getattr(bound, f"set_{flag}")(True)
    plain, cache = bound(), bound.run_with_cache()[1]
    added = [at for at in bound.hook_dict if at not in model.hook_dict]
    assert bound.flags == set(FLAGS) - {"use_attn_in", *REFUSED.get(name, ())}
    for at in added:
        shown = cache[
            at.replace(".attn.hook_q", ".hook_q").replace(".attn.hook_k", ".hook_k").replace(".attn.hook_v", ".hook_v")
        ]
        assert shown.shape[-1] == model.cfg.d_model
        edited = bound.run_with_hooks(fwd_hooks=[(at, lambda activation, hook: -activation)])
        assert float((edited - plain).abs().max()) > 1e-6, at


@torch.no_grad()
def test_half_precision() -> None:
    """In bfloat16 an untouched run is the model's, and an edit of a head is that of its part of the projection."""
    model = pair("qwen2_5_vl").hooked
    half = model.from_hf(copy.deepcopy(model.hf_model).bfloat16(), model.processor)
    bound = half.bind(half.prepare(TEXT, images=picture(0)))
    plain = bound()
    bound.set_use_split_qkv_input(True)
    bound.set_use_attn_result(True)
    assert torch.equal(bound.run_with_hooks(fwd_hooks=[("blocks.*.hook_q_input", lambda a, hook: a)]), plain)
    seen: list[torch.Tensor] = []
    bound.run_with_hooks(
        fwd_hooks=[
            ("blocks.1.hook_k_input", lambda a, hook: 0 * a),
            ("blocks.1.attn.hook_k", lambda a, hook: seen.append(a)),
        ]
    )
    weights = half.part("language").blocks[1].attn
    assert weights is not None
    assert torch.equal(seen[0], weights.b_K.expand_as(seen[0]))


@pytest.mark.filterwarnings("ignore:A forward hook edited hook_scale/hook_normalized")
@torch.no_grad()
def test_normalized_is_before_the_gain(both: Pair) -> None:
    """By hand from the stream; an edit is one of the norm's output through its gain."""
    bound, ids = both.hooked.bind(both.batches[TEXT]), both.batches[TEXT]["input_ids"]
    plain, cache = bound(), bound.run_with_cache()[1]
    theirs = both.bridge.run_with_cache(ids)[1]
    last = f"blocks.{both.hooked.cfg.n_layers - 1}.hook_resid_post"
    for at, stream in (("blocks.1.ln1", "blocks.1.hook_resid_pre"), ("ln_final", last)):
        name = f"{at}.hook_normalized"
        close(cache[name], cache[stream] / cache[f"{at}.hook_scale"])
        close(cache[name], theirs[name])
        assert torch.equal(bound.run_with_hooks(fwd_hooks=[(name, lambda activation, hook: activation)]), plain)
        rolled = bound.run_with_hooks(fwd_hooks=[(name, lambda activation, hook: activation.roll(1, -1))])
        close(
            rolled, both.bridge.run_with_hooks(ids, fwd_hooks=[(name, lambda activation, hook: activation.roll(1, -1))])
        )
        assert float((rolled - plain).abs().max()) > 1e-3


@torch.no_grad()
def test_normalized_of_layer_norms() -> None:
    """A layer norm centres first and adds its bias behind the gain; of a width that is odd too."""

    for width in (5, 6):
        norm = torch.nn.LayerNorm(width)
        torch.nn.init.normal_(norm.weight)
        torch.nn.init.normal_(norm.bias)
        scale = NormScale(
            norm,
            is_centred=True,
            eps=norm.eps,
            bias=lambda norm=norm: norm.bias,
            inputs=Site(norm, "in"),
            outputs=Site(norm, "out"),
        )
        point = Point("ln.hook_normalized", BeforeGain(scale))
        x, seen = torch.randn(2, 3, width), []
        point.add_hook(lambda activation, hook, seen=seen: seen.append(activation) or activation * 3)
        found = norm(x)
        point.remove_hooks()
        expected = torch.nn.functional.layer_norm(x, (width,), eps=norm.eps)
        close(seen[0], expected)
        close(found, 3 * expected * norm.weight + norm.bias)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@torch.no_grad()
def test_adapters_that_come_later_act_in_heads_inputs(both: Pair) -> None:
    """What an adapter adds to a projection is part of what a head makes of its own stream."""
    model = peft.get_peft_model(bare_copy(both.hooked), peft.LoraConfig(target_modules=["down_proj"]), "first")
    hooked = HookedMultimodal.from_hf(model, both.hooked.processor)
    bound = hooked.bind(both.batches[TEXT])
    bound.set_use_split_qkv_input(True)
    bound.run_with_cache()
    torch.manual_seed(0)
    model.add_adapter("second", peft.LoraConfig(target_modules=["q_proj"], init_lora_weights=False))
    model.set_adapter("second")
    cache = bound.run_with_cache()[1]
    seen: list[torch.Tensor] = []
    bound.run_with_hooks(
        fwd_hooks=[
            ("blocks.1.hook_q_input", lambda activation, hook: activation.roll(1, -1)),
            ("blocks.1.attn.hook_q", lambda activation, hook: seen.append(activation)),
        ]
    )
    block = hooked.base.model.language_model.layers[1]
    stream = block.input_layernorm(cache["resid_pre", 1].roll(1, -1))
    expected = block.self_attn.q_proj(stream)
    close(seen[0].flatten(2), expected)
    assert float((expected - block.self_attn.q_proj.base_layer(stream)).abs().max()) > 1e-3
