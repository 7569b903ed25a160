"""Direct effects add up to the logit: in each family, by its own final norm, in float64."""

from functools import partial
from typing import Any

import pytest
import torch

from mmlens import lab
from mmlens.analysis.neurons.find import find_neurons
from mmlens.core import positions
from mmlens.core.errors import InputError
from mmlens.inputs.batch import MultimodalBatch
from mmlens.inputs.positions import resolve
from mmlens.models.hooked import HookedMultimodal
from tests.contracts.test_families import batch_of
from tests.families import FAMILIES
from tests.families.gemma_like import gemma3
from tests.tiny import TINY, Tiny, picture

#: Families without a neuron of every layer, since experts' neurons exist in no module.
MIXTURES = {
    *("aria", "deepseek_ocr2", "dots3_note", "ernie4_5_vl", "glm46v_moe", "glm4v_moe", "kimi_k2_5", "llama4"),
    *("minimax_m3_vl", "mistral4", "mistral_large4", "muse_spark", "qwen3_5_moe", "qwen3_omni", "qwen3_vl_moe"),
    "unlimited_ocr",
}
#: Families whose stream is normed (behind every branch) or scaled on its way.
NO_SUM = {"florence2", "gemma3n", "gemma3n_cut", "gemma4_small", "gemma4_sparse"}
#: Transformers' masks of these families overflow in float64.
SINGLE = {"kosmos2"}
#: Transformers' RMS norms compute in float32 whatever the model's dtype.
SINGLE_NORMS = 2e-6
#: With norms in float64 too.
EXACT = 1e-10


def root_mean_square(norm: Any, x: torch.Tensor) -> torch.Tensor:
    """An RMS norm in its input's own dtype."""
    return norm.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + norm.variance_epsilon)


def in_double(model: HookedMultimodal, batch: MultimodalBatch) -> tuple[HookedMultimodal, MultimodalBatch]:
    """The model and its batch in float64."""
    model.hf_model.double()
    for module in model.hf_model.modules():
        if type(module).__name__ in ("LlamaRMSNorm", "Qwen2VLRMSNorm"):
            module.forward = partial(root_mean_square, module)
    inputs = {name: t.double() if t.is_floating_point() else t for name, t in batch.inputs.items()}
    return model, MultimodalBatch(inputs, batch.layout, batch.images, batch.prompts)


class FrozenNorm:
    """The final norm as a linear map, its divisor held as it is for one stream; by running the real module."""

    def __init__(self, module: torch.nn.Module, stream: torch.Tensor):
        self.module = module
        self.eps = getattr(module, "variance_epsilon", getattr(module, "eps", 0.0))
        self.centred = torch.allclose(module(stream), module(stream + stream.std()), rtol=1e-3)
        self.bias: Any = getattr(module, "bias", None)
        self.bias = 0.0 if self.bias is None else self.bias
        self.divisor = self.divides_by(stream)

    def divides_by(self, x: torch.Tensor) -> torch.Tensor:
        if isinstance(self.module, torch.nn.Identity):
            return torch.ones_like(x[..., :1])
        x = x - x.mean(-1, keepdim=True) if self.centred else x
        return (x.pow(2).mean(-1, keepdim=True) + self.eps).sqrt()

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return (self.module(x) - self.bias) * self.divides_by(x) / self.divisor


@torch.no_grad()
def check_sums(model: HookedMultimodal, batch: MultimodalBatch, token: int, rounding: float = EXACT) -> None:
    """Scores of a layer add up to what its MLP adds to the logit, and everything that is written to the logit itself."""
    scores = find_neurons(model, batch, token=token, method="direct_effect").scores
    final = model.graph[f"blocks.{len(scores) - 1}.hook_resid_post"]
    writers = [
        n.name for n in model.graph if n.role == "writes" and n.sequence == final.sequence and n.part == final.part
    ]
    _, cache = model.run_with_cache(batch, names=[*writers, final.name, "hook_logits"])
    rows = torch.cat(resolve(positions.last, batch, final).rows)[:, 1]
    at = (torch.arange(batch.size), rows)
    norm = FrozenNorm(model.ln_final, cache[final.name][at])
    column = model.W_U[:, token]
    expected = norm.bias @ column if isinstance(norm.bias, torch.Tensor) else torch.zeros((), dtype=scores.dtype)
    expected = expected + model.b_U[token]
    for name in writers:
        written = norm(cache[name][at]) @ column
        if not name.endswith("hook_mlp_out") or "cross" in name:
            expected = expected + written
            continue
        layer = int(name.split(".")[1])
        constant = norm(model.blocks[layer].mlp.b_out.expand(batch.size, -1)) @ column
        torch.testing.assert_close(scores[layer].sum(), (written - constant).mean(), rtol=rounding, atol=rounding)
        expected = expected + scores[layer].sum() + constant
    torch.testing.assert_close(expected.mean(), cache["hook_logits"][at][:, token].mean(), rtol=rounding, atol=rounding)


@pytest.mark.parametrize("tiny", TINY, ids=lambda tiny: tiny.name)
def test_the_sum_over_neurons_and_everything_else_is_the_logit(tiny: Tiny) -> None:
    check_sums(*in_double(model := tiny.make(), batch_of(tiny, model)), token=18)


def test_the_sum_is_the_logit_on_the_lab_model() -> None:
    model = lab.load()
    batch = model.prepare("what color is the circle", images=[[lab.scene(1).image]])
    check_sums(*in_double(model, batch), token=model.to_single_token("red"))


def test_norms_behind_branches_with_gains_told_from_one_are_counted() -> None:
    model = gemma3()
    batch = model.prepare("describe the image", images=picture(0))
    check_sums(*in_double(model, batch), token=18, rounding=SINGLE_NORMS)


@pytest.mark.parametrize("tiny", [tiny for tiny in FAMILIES if tiny.writes], ids=lambda tiny: tiny.name)
def test_every_family_adds_up_or_says_why_not(tiny: Tiny) -> None:
    model = tiny.make()
    batch = batch_of(tiny, model)
    if tiny.name in MIXTURES:
        with pytest.raises(InputError, match="experts, whose hidden neurons exist in no module"):
            find_neurons(model, batch, token=18)
    elif tiny.name in NO_SUM:
        with pytest.raises(InputError, match=r"the stream of \w+ is no such sum \(off by .*Use method='contribution'"):
            find_neurons(model, batch, token=18, method="direct_effect")
    elif tiny.name in SINGLE:
        check_sums(model, batch, token=18, rounding=1e-3)
    else:
        check_sums(*in_double(model, batch), token=18, rounding=SINGLE_NORMS)
