"""Weights of attention branches in any stack: what heads write with them is what the branch adds."""

import pytest
import torch

from mmlens.core.errors import InputError
from mmlens.models.decoder import attention_of
from tests.families import FAMILIES
from tests.tiny import picture


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "branch"),
    [
        ("mllama", "blocks.1.cross_attn"),
        ("mllama", "vision.global_blocks.1.attn"),
        ("instructblip_t5", "encoder.blocks.1.attn"),
    ],
)
def test_heads_write_what_the_branch_adds(name: str, branch: str) -> None:
    tiny = next(each for each in FAMILIES if each.name == name)
    model = tiny.make()
    batch = model.prepare("describe the image", images=picture(0, *tiny.sizes[0]))
    block, _, kind = branch.rpartition(".")
    out, z = f"{block}.hook_{kind}_out", f"{branch}.hook_z"
    cache = model.run_with_cache(batch, names=[out, z])[1]
    weights = attention_of(model, branch)
    written = torch.einsum("...hk,hkd->...d", cache[z], weights.W_O) + weights.b_O
    gates = {"blocks.1": "cross_attn_attn_gate", "vision.global_blocks.1": "gate_attn"}
    gate = weights.module.get_parameter(gates[block]).tanh() if block in gates else 1.0
    torch.testing.assert_close(cache[out], written * gate, rtol=0, atol=1e-5)


def test_a_branch_that_is_not_there_is_refused() -> None:
    model = next(each for each in FAMILIES if each.name == "mllama").make()
    with pytest.raises(InputError, match=r"blocks.0.cross_attn is no attention branch of mllama"):
        attention_of(model, "blocks.0.cross_attn")
