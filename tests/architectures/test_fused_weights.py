"""Weights of linears that hold several things at once: each part is the one that the model computes with."""

from typing import Any

import torch

from mmlens.models.hooked import HookedMultimodal
from tests.conftest import SHORT
from tests.families.glm_like import TINY as GLM_LIKE
from tests.families.qwen_like import exaone4_5, qwen3_5
from tests.tiny import picture


@torch.no_grad()
def seen(model: HookedMultimodal, module: Any, point: str) -> tuple[torch.Tensor, torch.Tensor]:
    """What a module returns and what a point holds, in one run on one sample."""
    returned: list[torch.Tensor] = []
    handle = module.register_forward_hook(lambda m, inputs, output: returned.append(output))
    batch = model.prepare(SHORT, images=picture(0))
    held = model.run_with_cache(batch, names=point)[1][point]
    handle.remove()
    return returned[0], held


def test_gate_and_up_in_one_linear() -> None:
    model = next(tiny for tiny in GLM_LIKE if tiny.name == "glm4v").make()
    block = model.blocks[0]
    x, post = seen(model, block.ln2, "blocks.0.mlp.hook_post")
    expected = torch.nn.functional.silu(x @ block.mlp.W_gate) * (x @ block.mlp.W_in)
    torch.testing.assert_close(post, expected)
    assert model.cfg.gated_mlp
    assert not block.mlp.b_in.any()


def test_grouped_queries_keys_and_values_in_one_linear() -> None:
    model = exaone4_5()
    vision = model.part("vision")
    attn = vision.blocks[0].attn
    assert attn is not None
    assert (len(attn.W_Q), len(attn.W_K), len(attn.W_V)) == (4, 2, 2)
    assert vision.cfg.n_key_value_heads == 2
    x, v = seen(model, vision.blocks[0].ln1, "vision.blocks.0.attn.hook_v")
    torch.testing.assert_close(v, torch.einsum("pd,hde->phe", x, attn.W_V) + attn.b_V)


def test_queries_that_come_with_a_gate() -> None:
    model = qwen3_5()
    block = model.blocks[1]
    assert block.attn is not None
    assert len(block.attn.W_Q) == 4
    x, q = seen(model, block.ln1, "blocks.1.attn.hook_q")
    torch.testing.assert_close(q, torch.einsum("bpd,hde->bphe", x, block.attn.W_Q) + block.attn.b_Q)
    _, rotated = seen(model, block.ln1, "blocks.1.attn.hook_rot_q")
    # at position 0 rotary embeddings turn nothing, so that a query is only normed
    torch.testing.assert_close(rotated[0, 0], block.module.self_attn.q_norm(q[0, 0]), atol=1e-6, rtol=1e-5)
