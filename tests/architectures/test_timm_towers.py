"""What the points of models with timm's towers hold, beside plain torch hooks on the real modules."""

from typing import Any

import pytest
import torch
from torch import nn

from mmlens.models.hooked import HookedMultimodal
from tests.contracts.test_families import batch_of
from tests.families.timm_towers import TINY

_TINY = {tiny.name: tiny for tiny in TINY}


def made(name: str) -> tuple[HookedMultimodal, Any]:
    """A model and a batch; skips where it cannot be made."""
    model = _TINY[name].make()
    return model, batch_of(_TINY[name], model)


def returned(module: nn.Module, model: HookedMultimodal, batch: Any) -> torch.Tensor:
    """What a module returns in a forward pass."""
    kept: list[torch.Tensor] = []
    handle = module.register_forward_hook(lambda module, args, output: kept.append(output))
    try:
        model(batch)
    finally:
        handle.remove()
    return kept[0]


@pytest.mark.parametrize("name", ["gemma3n", "gemma3n_cut"])
@torch.no_grad()
def test_the_stream_of_gemma3n_is_the_active_one(name: str) -> None:
    model, batch = made(name)
    layers: Any = model.hf_model.get_submodule("model.language_model.layers")
    active = model.config.text_config.altup_active_idx
    streams = returned(layers[1], model, batch)
    _, cache = model.run_with_cache(batch, names="blocks.*.hook_resid_*")
    assert torch.equal(cache["blocks.1.hook_resid_post"], streams[active])
    assert torch.equal(cache["blocks.2.hook_resid_pre"], streams[active])

    def doubled(module: nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor:
        output = output.clone()
        output[active] *= 2
        return output

    handle = layers[1].register_forward_hook(doubled)
    expected = model(batch)
    handle.remove()
    hooked = model.run_with_hooks(batch, fwd_hooks=[("blocks.1.hook_resid_post", lambda a, hook: a * 2)])
    assert torch.equal(hooked, expected)
    assert not torch.equal(hooked, model(batch))


@torch.no_grad()
def test_convolutions_of_one_cell_are_read_as_linears() -> None:
    model, batch = made("fast_vlm")
    block: Any = model.hf_model.get_submodule("model.vision_tower.timm_model.stages.0.blocks.0")
    mixed = returned(block.mlp.conv, model, batch).flatten(2).transpose(1, 2)
    weights = model.part("vision").blocks[0].mlp
    assert weights is not None
    prefix = "vision.stages.0.blocks.0"
    names = [f"{prefix}.{kind}" for kind in ("mlp.hook_pre", "mlp.hook_post", "hook_mlp_out")]
    _, cache = model.run_with_cache(batch, names=names)
    pre, post, branch = (cache[name] for name in names)
    torch.testing.assert_close(pre, mixed @ weights.W_in + weights.b_in, atol=1e-5, rtol=1e-5)
    out = (post @ weights.W_out + weights.b_out) * block.layer_scale.gamma.flatten()
    torch.testing.assert_close(branch, out, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_the_hidden_rows_of_perception_lm_are_patches_in_raster_order() -> None:
    model, batch = made("perception_lm")
    _, cache = model.run_with_cache(batch, names=["projector.hook_*", "projector.mlp.hook_post"])
    hidden = cache["projector.mlp.hook_post"]
    linear = model.hf_model.get_submodule("model.multi_modal_projector.linear_2")
    pooled = linear(hidden).unflatten(1, (2, 2, 2, 2)).mean((2, 4)).flatten(1, 2)
    torch.testing.assert_close(cache["projector.hook_out"], pooled, atol=1e-5, rtol=1e-5)
    assert cache["projector.hook_in"].shape[1] == 1 + hidden.shape[1]  # the class row is left out behind it
