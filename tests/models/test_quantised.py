"""Quantised models: everything that reads weights reads what the layers multiply by; what cannot be written says so.

The truth is a twin in floating numbers whose weights are what the bare layers return for unit vectors.
"""

import copy
import importlib.util
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

import mmlens as mm
from mmlens.architectures.quantised import is_quantised
from mmlens.architectures.weights import readable
from mmlens.core.errors import UnsupportedModelError
from mmlens.models.fingerprint import fingerprint
from mmlens.models.hooked import HookedMultimodal
from mmlens.models.verify import verify
from mmlens.models.weight_rows import rows_added
from tests.conftest import bare_copy


def language_linears(bare: nn.Module) -> dict[str, nn.Linear]:
    """The linears of the language model, and the unembedding, by path."""
    linears = {path: module for path, module in bare.named_modules() if isinstance(module, nn.Linear)}
    return {path: module for path, module in linears.items() if "language_model" in path or path == "lm_head"}


def by_torchao(bare: nn.Module) -> None:
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    chosen = set(language_linears(bare))
    quantize_(bare, Int8WeightOnlyConfig(), filter_fn=lambda module, path: path in chosen)


def by_quanto(bare: nn.Module, *, frozen: bool = True, weights: str = "qint8") -> None:
    from optimum import quanto

    quanto.quantize(bare, weights=getattr(quanto, weights), include=list(language_linears(bare)))
    if frozen:
        quanto.freeze(bare)


def by_bitsandbytes(bare: nn.Module, *, bits: int) -> None:
    import bitsandbytes as bnb

    for path, own in language_linears(bare).items():
        if bits == 4 and path == "lm_head":
            continue  # its kernel for processors needs multiples of 32
        kind = bnb.nn.Linear8bitLt if bits == 8 else bnb.nn.Linear4bit
        options: dict[str, Any] = {"has_fp16_weights": False} if bits == 8 else {"compute_dtype": torch.float32}
        layer = kind(own.in_features, own.out_features, bias=own.bias is not None, **options)
        layer.load_state_dict(own.state_dict())
        parent = bare.get_submodule(path.rpartition(".")[0])
        setattr(parent, path.rpartition(".")[2], layer.requires_grad_(False).to("cpu"))


@dataclass(frozen=True)
class Backend:
    """A package that quantises.

    Attributes:
        package: its name.
        quantise: what it does to a model, in place.
        tolerance: how far its layers' arithmetic is from float32, relative to the largest number.
    """

    package: str
    quantise: Callable[[nn.Module], None]
    tolerance: float = 1e-6


BACKENDS = {
    "torchao int8": Backend("torchao", by_torchao),
    "quanto int8": Backend("optimum.quanto", by_quanto),
    "quanto int4": Backend("optimum.quanto", lambda bare: by_quanto(bare, weights="qint4")),
    "quanto, not frozen": Backend("optimum.quanto", lambda bare: by_quanto(bare, frozen=False)),
    "bitsandbytes int8": Backend("bitsandbytes", lambda bare: by_bitsandbytes(bare, bits=8), 1e-3),
    "bitsandbytes nf4": Backend("bitsandbytes", lambda bare: by_bitsandbytes(bare, bits=4), 1e-2),
}


@dataclass(frozen=True)
class Pair:
    """A quantised model, and its twin in floating numbers."""

    model: HookedMultimodal
    twin: HookedMultimodal
    backend: Backend

    @torch.no_grad()
    def same(self, actual: torch.Tensor, expected: torch.Tensor, times: float = 1) -> None:
        """Check that two tensors are the same up to the backend's arithmetic."""
        error = float((actual - expected).abs().max() / expected.abs().max())
        assert error <= times * self.backend.tolerance, error


@pytest.fixture(scope="module", params=BACKENDS)
def pair(request: pytest.FixtureRequest) -> Pair:
    backend = BACKENDS[request.param]
    parents = backend.package.split(".")[:-1]
    if not all(map(importlib.util.find_spec, [*parents, backend.package])):
        pytest.skip(f"{backend.package} is not installed")
    lab = mm.lab.load()
    bare = bare_copy(lab).requires_grad_(False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        backend.quantise(bare)
    twin = bare_copy(lab)
    with torch.no_grad():
        for path, linear in language_linears(twin).items():
            layer = bare.get_submodule(path)
            if not is_quantised(layer):
                assert path == "lm_head"
                continue
            if backend.package == "bitsandbytes":
                layer = copy.deepcopy(layer)  # whose first pass lays codes out anew
            # a parameter of its own: the unembedding of the lab model is its embedding
            linear.weight = nn.Parameter(layer.forward(torch.eye(linear.in_features)).T.contiguous())
    return Pair(
        HookedMultimodal.from_hf(bare.eval(), lab.processor), HookedMultimodal.from_hf(twin, lab.processor), backend
    )


@pytest.fixture
def batch(pair: Pair) -> mm.MultimodalBatch:
    return pair.model.prepare("describe the image", images=mm.lab.scene(seed=3).image)


def test_weights_are_what_the_layers_multiply_by(pair: Pair) -> None:
    for mine, theirs in zip(pair.model.blocks, pair.twin.blocks, strict=True):
        for name in ("W_Q", "W_K", "W_V", "W_O"):
            pair.same(getattr(mine.attn, name), getattr(theirs.attn, name))
        for name in ("W_in", "W_gate", "W_out"):
            pair.same(getattr(mine.mlp, name), getattr(theirs.mlp, name))
        assert torch.equal(mine.mlp.b_out, theirs.mlp.b_out)
    pair.same(pair.model.W_U, pair.twin.W_U)


@torch.no_grad()
def test_runs_are_the_bare_models_and_every_point_is_real(pair: Pair, batch: mm.MultimodalBatch) -> None:
    before = fingerprint(pair.model)
    expected = pair.model.hf_model(**batch, use_cache=False).logits
    assert torch.equal(pair.model(batch), expected)
    report = verify(pair.model, batch, causal=False, progress=False)
    assert not report.failed, repr(report)
    assert fingerprint(pair.model) == before
    pair.same(expected, pair.twin(batch), times=30)


@torch.no_grad()
def test_neurons_and_lenses_are_the_twins(pair: Pair, batch: mm.MultimodalBatch) -> None:
    models = (pair.model, pair.twin)
    pair.same(*[mm.find_neurons(each, batch, token="circle").scores for each in models], times=30)
    if (
        pair.backend.tolerance < 1e-4
    ):  # others round activations too, so that outputs are no sums of rows, and it says so
        found = [mm.find_neurons(each, batch, token="circle", method="direct_effect").scores for each in models]
        pair.same(*found, times=30)
    lenses = [mm.logit_lens(each, batch, words=["circle", "red"], progress=False) for each in models]
    pair.same(lenses[0].word_probabilities, lenses[1].word_probabilities, times=100)


def test_edits_are_made_of_the_rows_and_cannot_be_written(pair: Pair) -> None:
    names = ["L1.u7", "L2.u0"]
    before = fingerprint(pair.model)
    edit = mm.edits.zero_neurons(pair.model, names)
    rows = torch.stack([pair.twin.blocks[1].mlp.W_out[7], pair.twin.blocks[2].mlp.W_out[0]])
    pair.same(edit.deltas, -rows)
    message = r"^W_out behind blocks\.\d\.mlp\.hook_post is quantised \(\w+ of \w+\) and cannot be edited: what is added to a row"
    with pytest.raises(UnsupportedModelError, match=message):
        pair.model.apply(edit)
    with pytest.raises(UnsupportedModelError, match=message), pair.model.edited(edit):
        pass
    assert pair.model.edits == ()
    assert fingerprint(pair.model) == before
    with pair.twin.edited(edit.carried_to(pair.twin)):
        pair.same(pair.twin.blocks[1].mlp.W_out[7] + rows[0], rows[0])


@torch.no_grad()
def test_an_edit_on_trial_is_the_edit_of_the_twin(pair: Pair, batch: mm.MultimodalBatch) -> None:
    edit = mm.edits.scale_neurons(pair.model, ["L1.u7", "L2.u0", "L2.u5"], factor=8.0)
    with rows_added(pair.model, edit.rows, lambda: edit.deltas):
        tried = pair.model(batch)
    plain = pair.model(batch)
    with pair.twin.edited(edit.carried_to(pair.twin)):
        effect = pair.twin(batch)
    effect = effect - pair.twin(batch)
    assert float(effect.abs().max()) > 0.02
    error = float((tried - plain - effect).abs().max() / effect.abs().max())
    assert error <= 300 * pair.backend.tolerance, error


@pytest.mark.filterwarnings("ignore")  # of peft, which says what it does to quantised layers
def test_adapters_on_a_quantised_base_count_whole(pair: Pair, batch: mm.MultimodalBatch) -> None:
    if pair.backend.package == "optimum.quanto":
        pytest.skip("peft has no adapters for quanto's layers")
    torch.manual_seed(0)
    settings = LoraConfig(r=2, lora_alpha=3, target_modules=["down_proj"], lora_dropout=0.1, init_lora_weights=False)
    wrapped = get_peft_model(copy.deepcopy(pair.model.hf_model), settings).eval()
    model = HookedMultimodal.from_hf(wrapped, pair.model.processor)
    own = model.base.model.language_model.layers[1].mlp.down_proj
    added = 1.5 * own.lora_B["default"].weight @ own.lora_A["default"].weight
    pair.same(model.blocks[1].mlp.W_out, pair.twin.blocks[1].mlp.W_out + added.T)
    with model.adapter(None):
        pair.same(model.blocks[1].mlp.W_out, pair.twin.blocks[1].mlp.W_out)


class ByAnotherPackage(nn.Module):
    """A linear of codes and scales by rows, as GPTQ's, AWQ's and eight-bit floats are: no tensor of it is the weight."""

    def __init__(self, own: nn.Linear):
        super().__init__()
        self.in_features, self.out_features = own.in_features, own.out_features
        scales = own.weight.detach().abs().amax(1, keepdim=True) / 7
        self.register_buffer("qweight", (own.weight.detach() / scales).round().to(torch.int8))
        self.register_buffer("scales", scales)
        self.bias = own.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, self.qweight.to(x) * self.scales, self.bias)


class EightBitFloats(ByAnotherPackage):
    """The same, with a weight that looks like numbers."""

    def __init__(self, own: nn.Linear):
        super().__init__(own)
        del self.qweight
        self.weight = nn.Parameter((own.weight.detach() / self.scales).to(torch.float8_e4m3fn), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, self.weight.to(x) * self.scales, self.bias)


@pytest.mark.parametrize("kind", [ByAnotherPackage, EightBitFloats])
def test_layers_that_do_not_say_their_numbers_are_asked_with_unit_vectors(kind: type[ByAnotherPackage]) -> None:
    own = nn.Linear(1500, 9)
    layer = kind(own)
    codes = layer.qweight if kind is ByAnotherPackage else layer.weight
    hooked: list[str] = []
    layer.register_forward_hook(lambda *args: hooked.append("ran"))
    torch.testing.assert_close(readable(layer, "down_proj"), codes.float() * layer.scales, rtol=1e-6, atol=1e-9)
    layer.bias.data.fill_(100.0)
    torch.testing.assert_close(readable(layer, "down_proj"), codes.float() * layer.scales, rtol=1e-4, atol=1e-6)
    assert not hooked


def test_a_layer_of_another_package_inside_a_model() -> None:
    bare = bare_copy(mm.lab.load())
    mlp = bare.model.language_model.layers[1].mlp
    mlp.down_proj = ByAnotherPackage(mlp.down_proj)
    model = HookedMultimodal.from_hf(bare, mm.lab.load().processor)
    rows = (mlp.down_proj.qweight * mlp.down_proj.scales).T
    torch.testing.assert_close(model.blocks[1].mlp.W_out, rows)
    batch = model.prepare("describe the image", images=mm.lab.scene(seed=3).image)
    _, cache = model.run_with_cache(batch, names=["blocks.1.mlp.hook_post", "blocks.1.hook_mlp_out"])
    torch.testing.assert_close(
        cache["blocks.1.mlp.hook_post"] @ rows, cache["blocks.1.hook_mlp_out"], rtol=1e-4, atol=1e-4
    )
    with pytest.raises(UnsupportedModelError, match=r"is quantised \(codes of ByAnotherPackage\) and cannot be edited"):
        model.apply(mm.edits.zero_neurons(model, "L1.u3"))
