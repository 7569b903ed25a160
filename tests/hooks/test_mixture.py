"""Inside mixtures of experts: new router logits choose anew, and every point shows the rows as the stream has them."""

from typing import Any

import pytest
import torch

from mmlens.core.errors import UnsupportedModelError
from mmlens.hooks.mixture import RouterLogits
from mmlens.inputs.batch import MultimodalBatch
from mmlens.models.hooked import HookedMultimodal
from tests.conftest import LONG, SHORT
from tests.families.glm_like import TINY as GLM_LIKE
from tests.families.qwen_like import TINY as QWEN_LIKE
from tests.tiny import picture

_MIXTURES = {tiny.name: tiny for tiny in [*QWEN_LIKE, *GLM_LIKE] if tiny.name.endswith("moe")}
ROUTER = "blocks.2.mlp.hook_router"


def made(name: str) -> tuple[HookedMultimodal, MultimodalBatch]:
    """A tiny mixture, and two samples of different length."""
    model = _MIXTURES[name].make()
    return model, model.prepare([SHORT, LONG], images=[[picture(0)], [picture(1)]])


def slowly(mixture: Any, x: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """What Qwen3's mixture returns for rows `[row d_model]` and router logits `[row expert]`, row by row."""
    out = torch.zeros_like(x)
    for row, (vector, own) in enumerate(zip(x, logits, strict=True)):
        chosen = own.softmax(-1).topk(mixture.gate.top_k)
        for weight, expert in zip(chosen.values / chosen.values.sum(), chosen.indices, strict=True):
            gate, up = (mixture.experts.gate_up_proj[expert] @ vector).chunk(2)
            out[row] += weight * (mixture.experts.down_proj[expert] @ (torch.nn.functional.silu(gate) * up))
    return out


@torch.no_grad()
def test_new_logits_choose_other_experts_with_other_weights() -> None:
    model, batch = made("qwen3_vl_moe")
    mixture = model.hf_model.model.language_model.layers[2].mlp
    received: list[torch.Tensor] = []
    handle = mixture.register_forward_pre_hook(lambda module, inputs: received.append(inputs[0]))
    shift = torch.tensor([-1e4, 0.0, 2.0, 0.5])
    with model.hooks([(ROUTER, lambda logits, hook: logits + shift)]):
        out = model.run_with_cache(batch, names="blocks.2.hook_mlp_out")[1]["blocks.2.hook_mlp_out"]
    handle.remove()
    x = received[0].flatten(0, 1)
    logits = x @ mixture.gate.weight.T
    assert (logits.argmax(-1) == 0).any(), "the expert that is ruled out must be one that would have been chosen"
    torch.testing.assert_close(out.flatten(0, 1), slowly(mixture, x, logits + shift), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", sorted(_MIXTURES))
@torch.no_grad()
def test_points_of_a_mixture_show_samples_and_positions(name: str) -> None:
    model, batch = made(name)
    names = [n for n in model.graph.names if ".mlp." in n and n.startswith("blocks.2.")]
    assert ROUTER in names
    for point, value in model.run_with_cache(batch, names=names)[1].items():
        assert value.shape[:2] == batch["input_ids"].shape, point


@pytest.mark.parametrize("name", sorted(_MIXTURES))
def test_router_logits_have_a_gradient(name: str) -> None:
    model, batch = made(name)
    seen: list[torch.Tensor] = []

    def keep(logits: torch.Tensor, hook: Any) -> torch.Tensor:
        logits.retain_grad()
        seen.append(logits)
        return logits

    model.run_with_hooks(batch, fwd_hooks=[(ROUTER, keep)])[0, -1].max().backward()
    assert seen[0].grad is not None
    assert seen[0].grad[0, -1].abs().max() > 0
    assert seen[0].grad[1].abs().max() == 0, "another sample's logits"


def test_more_experts_than_the_rows_are_wide_are_refused() -> None:
    with pytest.raises(UnsupportedModelError, match=r"Linear has 5 experts for rows of width 3"):
        RouterLogits(torch.nn.Linear(3, 5), 0)


class ScalingRouter(torch.nn.Module):
    """A router whose logits are a third of what its linear gives."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(4, 6, generator=torch.Generator().manual_seed(0)))

    def forward(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = torch.nn.functional.linear(rows, self.weight) / 3
        return logits, logits.softmax(-1)


@torch.no_grad()
def test_a_router_that_scales_its_logits_chooses_by_the_edited_ones() -> None:
    router, rows = ScalingRouter(), torch.randn(5, 6, generator=torch.Generator().manual_seed(1))
    shift = torch.tensor([0.0, 1.0, -2.0, 0.5])
    logits = router(rows)[0]
    received: list[torch.Tensor] = []
    handle = router.register_forward_hook(lambda module, args, output: received.append(output[0]))
    point = RouterLogits(router, 0)
    point.attach(tap := (lambda tensor: tensor + shift), 0)
    new, weights = router(rows)
    assert torch.equal(received[0], new), "hooks of others, that were there before, see what goes on"
    handle.remove()
    point.detach(tap)
    torch.testing.assert_close(router(rows)[0], logits)
    torch.testing.assert_close(new, logits + shift)
    torch.testing.assert_close(weights, (logits + shift).softmax(-1))
