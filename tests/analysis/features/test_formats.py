"""Dictionaries from outside: codes and what they give back are those of formulas written out here, for every setting."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from mmlens.analysis.features.dictionary import SparseDictionary
from mmlens.analysis.features.loading import load_sae
from mmlens.analysis.features.saving import save_sae
from mmlens.core.errors import DamagedFileError, InputError

AT, OUT = "blocks.1.hook_resid_post", "blocks.1.hook_mlp_out"
WIDTH, COUNT, OTHER, K = 12, 30, 10, 4
TOLERANCE = 1e-5
NAN = torch.full((WIDTH,), torch.nan)
T = torch.Tensor
Tensors = dict[str, T]


def drawn(d_out: int = WIDTH) -> Tensors:
    """Weights whose decoder rows differ much in length."""
    make = torch.Generator().manual_seed(0)
    lengths = torch.logspace(-1, 0.5, COUNT)[torch.randperm(COUNT, generator=make)]
    unit = torch.nn.functional.normalize(torch.randn(COUNT, d_out, generator=make), dim=1)
    return {
        "W_enc": torch.randn(WIDTH, COUNT, generator=make) / 4,
        "b_enc": torch.randn(COUNT, generator=make) / 4,
        "W_dec": unit * lengths[:, None],
        "b_dec": torch.randn(d_out, generator=make),
    }


def states(*shape: int) -> T:
    """Rows of states, not around zero."""
    return torch.randn(*(shape or (50, WIDTH)), generator=torch.Generator().manual_seed(1)) * 2 + 1


def written(path: Path, cfg: Any, tensors: Tensors, weights: str, name: str = "cfg.json") -> Path:
    """A folder as trainers write it."""
    path.mkdir(parents=True, exist_ok=True)
    whole = {key: tensor.contiguous() for key, tensor in tensors.items()}
    if weights.endswith(".pt"):
        torch.save(whole, path / weights)
    else:
        save_file(whole, path / weights)
    (path / name).write_text(json.dumps(cfg))
    return path


def agree(found: T, expected: T) -> None:
    """Equal up to 1e-5 of the size of what is compared."""
    assert found.shape == expected.shape
    assert float((found - expected).abs().max()) <= TOLERANCE * max(1.0, float(expected.abs().max()))


# -- SAELens: every architecture with every setting ----------------------------------------------------------------------


def relu(p: T) -> T:
    """Each number, or 0."""
    return torch.where(p > 0, p, torch.zeros_like(p))


def largest(p: T, k: int) -> T:
    """The k largest of each row, the others 0; then relu."""
    least = p.sort(dim=-1, descending=True).values[..., k - 1 : k]
    return relu(torch.where(p >= least, p, torch.zeros_like(p)))


def saelens_cfg(architecture: str, **settings: Any) -> dict[str, Any]:
    """`cfg.json` as SAELens 6 writes it."""
    transcodes = "transcoder" in architecture
    return {
        "d_in": WIDTH,
        "d_sae": COUNT,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {
            "sae_lens_version": "6.54.12",
            "sae_lens_training_version": "6.54.12",
            "model_name": "a-model",
            "hook_name": "blocks.1.hook_resid_mid" if transcodes else AT,
            "hook_head_index": None,
            **({"hook_name_out": OUT} if transcodes else {}),
        },
        "architecture": architecture,
        **({"d_out": OTHER} if transcodes else {}),
        **({"k": K, "rescale_acts_by_decoder_norm": False} if architecture == "topk" else {}),
        **settings,
    }


def saelens_tensors(architecture: str) -> Tensors:
    """`sae_weights.safetensors` as SAELens writes it."""
    w = drawn(OTHER if "transcoder" in architecture else WIDTH)
    make = torch.Generator().manual_seed(2)
    if architecture == "gated":
        del w["b_enc"]
        w |= {name: torch.randn(COUNT, generator=make) / 3 for name in ("b_gate", "b_mag", "r_mag")}
    if "jumprelu" in architecture or "batchtopk" in architecture:
        w["threshold"] = torch.linspace(-1, 1, COUNT)
    if "skip" in architecture:
        w["W_skip"] = torch.randn(OTHER, WIDTH, generator=make) / 3
    return w


def saelens(w: Tensors, x: T, cfg: dict[str, Any]) -> tuple[T, T]:
    """SAELens's codes and what it gives back, written out a step at a time."""
    transcodes, norm = "transcoder" in cfg["architecture"], cfg["normalize_activations"]
    z, d = x, x.shape[-1]
    if norm == "constant_norm_rescale":
        factor = d**0.5 / (x * x).sum(-1, keepdim=True).sqrt()
        z = x * factor
    if norm == "layer_norm":
        mu = x.sum(-1, keepdim=True) / d
        std = (((x - mu) ** 2).sum(-1, keepdim=True) / (d - 1)).sqrt()
        z = (x - mu) / (std + 1e-5)
    if cfg["apply_b_dec_to_input"] and not transcodes:
        z = z - w["b_dec"]
    scale = torch.ones(COUNT)
    if cfg["architecture"] == "gated":
        is_open = (z @ w["W_enc"] + w["b_gate"] > 0).float()
        codes = is_open * relu(z @ (w["W_enc"] * w["r_mag"].exp()) + w["b_mag"])
    else:
        p = z @ w["W_enc"] + w["b_enc"]
        if cfg.get("rescale_acts_by_decoder_norm"):
            scale = (w["W_dec"] ** 2).sum(1).sqrt()
        codes = largest(p * scale, cfg["k"]) if cfg["architecture"] == "topk" else relu(p)
        if "threshold" in w:
            codes = codes * (p > w["threshold"]).float()
    out = (codes / scale) @ w["W_dec"] + w["b_dec"]
    if not transcodes and norm == "constant_norm_rescale":
        out = out / factor
    if not transcodes and norm == "layer_norm":
        out = out * std + mu
    return codes, out + x @ w["W_skip"].T if "W_skip" in w else out


AUTOENCODERS = ("standard", "gated", "jumprelu", "topk", "batchtopk", "matryoshka_batchtopk")
TRANSCODERS = ("transcoder", "skip_transcoder", "jumprelu_transcoder", "jumprelu_skip_transcoder")


@pytest.mark.parametrize("norm", ["none", "constant_norm_rescale", "layer_norm"])
@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("architecture", AUTOENCODERS + TRANSCODERS)
def test_saelens(architecture: str, centred: bool, norm: str, tmp_path: Path) -> None:
    cfg = saelens_cfg(architecture, apply_b_dec_to_input=centred, normalize_activations=norm)
    w, x = saelens_tensors(architecture), states()
    sae = load_sae(written(tmp_path, cfg, w, "sae_weights.safetensors"))
    codes, out = saelens(w, x, cfg)
    assert 0 < float((codes != 0).float().mean()) < 0.9
    agree(sae.encode(x), codes)
    agree(sae.decode(sae.encode(x), x), out)
    transcodes = architecture in TRANSCODERS
    assert (sae.at, sae.at_in) == ((OUT, "blocks.1.hook_resid_mid") if transcodes else (AT, None))
    assert sae.cfg["metadata"]["model_name"] == "a-model"
    for other in ({"apply_b_dec_to_input": not centred}, {"normalize_activations": "layer_norm"}):
        if norm != "layer_norm" and not (transcodes and "apply_b_dec_to_input" in other):
            assert (saelens(w, x, {**cfg, **other})[0] - codes).abs().max() > 0.1, "the setting decides nothing here"


@pytest.mark.parametrize("norm", ["none", "constant_norm_rescale", "layer_norm"])
def test_saelens_topk_by_decoder_norm(norm: str, tmp_path: Path) -> None:
    cfg = saelens_cfg("topk", rescale_acts_by_decoder_norm=True, normalize_activations=norm)
    w, x = saelens_tensors("topk"), states()
    sae = load_sae(written(tmp_path, cfg, w, "sae_weights.safetensors"))
    codes, out = saelens(w, x, cfg)
    agree(sae.encode(x), codes)
    agree(sae.decode(sae.encode(x), x), out)
    other = saelens(w, x, {**cfg, "rescale_acts_by_decoder_norm": False})[0]
    assert ((codes > 0) != (other > 0)).any()


def test_heads_lie_side_by_side(tmp_path: Path) -> None:
    cfg = saelens_cfg("standard", reshape_activations="hook_z")
    cfg["metadata"]["hook_name"] = "blocks.1.attn.hook_z"
    w, z = drawn(), states(5, 7, 3, WIDTH // 3)
    sae = load_sae(written(tmp_path, cfg, w, "sae_weights.safetensors"))
    codes, out = saelens(w, z.reshape(5, 7, WIDTH), cfg)
    agree(sae.encode(z), codes)
    agree(sae.decode(codes), out)


def test_bfloat16_weights_are_used_as_they_are_and_at_least_in_float32(tmp_path: Path) -> None:
    cfg, w = saelens_cfg("standard", dtype="bfloat16"), {name: t.bfloat16() for name, t in drawn().items()}
    sae = load_sae(written(tmp_path, cfg, w, "sae_weights.safetensors"))
    agree(
        sae.encode(states().bfloat16()),
        saelens({n: t.float() for n, t in w.items()}, states().bfloat16().float(), cfg)[0],
    )
    assert sae.W_enc.dtype == torch.float32


LEGACY: dict[str, Any] = {
    "architecture": "standard", "d_in": WIDTH, "d_sae": COUNT, "activation_fn_str": "relu", "dtype": "torch.float32",
    "apply_b_dec_to_input": False, "finetuning_scaling_factor": False, "context_size": 128, "model_name": "gpt2-small",
    "hook_point": AT, "hook_point_layer": 1, "hook_point_head_index": None, "prepend_bos": True, "lr": 4e-4,
    "dataset_path": "Skylion007/openwebtext", "normalize_activations": "none", "device": "cpu", "sae_lens_training_version": None,
}  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "as_new"),
    [
        ({}, {}),
        ({"apply_b_dec_to_input": True}, {"apply_b_dec_to_input": True}),
        ({"normalize_activations": "layer_norm"}, {"normalize_activations": "layer_norm"}),
        ({"normalize_activations": False}, {}),
        ({"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 5}}, {"architecture": "topk", "k": 5}),
        ({"architecture": "jumprelu", "hook_name": AT, "hook_point": AT}, {"architecture": "jumprelu"}),
        ({"architecture": "gated"}, {"architecture": "gated"}),
        ({"finetuning_scaling_factor": True}, {}),
    ],
)
def test_saelens_before_version_6(settings: dict[str, Any], as_new: dict[str, Any], tmp_path: Path) -> None:
    cfg = {**saelens_cfg("standard", apply_b_dec_to_input=False), **as_new}
    w = saelens_tensors(cfg["architecture"])
    factors = {"finetuning_scaling_factor": torch.ones(COUNT)} if settings.get("finetuning_scaling_factor") else {}
    sae = load_sae(written(tmp_path, {**LEGACY, **settings}, w | factors, "sae_weights.safetensors"))
    codes, out = saelens(w, states(), cfg)
    agree(sae.encode(states()), codes)
    agree(sae.decode(codes, states()), out)
    assert sae.at == AT


def test_thresholds_of_older_files_are_logarithms(tmp_path: Path) -> None:
    w = drawn() | {"threshold": torch.linspace(0.1, 2, COUNT)}
    older = {name: tensor for name, tensor in w.items() if name != "threshold"} | {
        "log_threshold": w["threshold"].log()
    }
    sae = load_sae(written(tmp_path, saelens_cfg("jumprelu"), older, "sae_weights.safetensors"))
    agree(sae.encode(states()), saelens(w, states(), saelens_cfg("jumprelu"))[0])


# -- Gemma Scope 2 -------------------------------------------------------------------------------------------------------

SCOPE: dict[str, tuple[str, str | None, str, str | None]] = {
    "resid_post": ("output", None, "blocks.7.hook_resid_post", None),
    "attn_out": ("self_attn.o_proj.input", None, "blocks.7.attn.hook_z", None),
    "mlp_out": ("post_feedforward_layernorm.output", None, "blocks.7.hook_mlp_out", None),
    "transcoder": (
        "pre_feedforward_layernorm.output",
        "post_feedforward_layernorm.output",
        "blocks.7.hook_mlp_out",
        "blocks.7.mlp.hook_in",
    ),
}


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("site", SCOPE)
def test_gemma_scope(site: str, affine: bool, tmp_path: Path) -> None:
    read, write, at, at_in = SCOPE[site]
    if affine and write is None:
        pytest.skip("autoencoders have no affine connection")
    w = drawn() | {"threshold": torch.linspace(0, 1, COUNT)}
    tensors = {name.lower(): tensor for name, tensor in w.items()}
    W_skip = torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(3))
    if affine:
        tensors["affine_skip_connection"] = W_skip.T
    cfg = {
        "hf_hook_point_in": f"model.layers.7.{read}",
        "hf_hook_point_out": f"model.layers.7.{write or read}",
        "width": COUNT,
        "model_name": "google/gemma-3-4b-it",
        "architecture": "jump_relu",
        "l0": 20,
        "affine_connection": affine,
        "type": "transcoder" if write else "sae",
    }
    sae = load_sae(written(tmp_path, cfg, tensors, "params.safetensors", "config.json"))
    x = states()
    p = x @ w["W_enc"] + w["b_enc"]  # nothing is taken off
    codes = relu(p) * (p > w["threshold"])
    out = codes @ w["W_dec"] + w["b_dec"] + (x @ W_skip.T if affine else 0)
    agree(sae.encode(x), codes)
    agree(sae.decode(codes, x), out)
    assert (sae.at, sae.at_in) == (at, at_in)
    shorter = {
        name: value for name, value in cfg.items() if name not in ("type", "hf_hook_point_out" if not write else "")
    }
    again = load_sae(written(tmp_path / "short", shorter, tensors, "params.safetensors", "config.json"))
    assert (again.at, again.at_in) == (at, at_in)


# -- sparsify, multimodal-sae --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ["topk", "groupmax"])
@pytest.mark.parametrize(
    ("transcode", "skip", "folder"),
    [
        (False, False, "layers.24"),
        (False, False, "model.layers.24"),
        (True, False, "layers.24.mlp"),
        (True, True, "layers.24.mlp"),
    ],
)
def test_sparsify(activation: str, transcode: bool, skip: bool, folder: str, tmp_path: Path) -> None:
    w, k = drawn(), 5
    tensors = {"encoder.weight": w["W_enc"].T, "encoder.bias": w["b_enc"], "W_dec": w["W_dec"], "b_dec": w["b_dec"]}
    W_skip = torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(3))
    tensors |= {"W_skip": W_skip} if skip else {}
    cfg = {
        "activation": activation, "expansion_factor": 32, "normalize_decoder": True, "num_latents": COUNT, "k": k,
        "multi_topk": False, "skip_connection": skip, "transcode": transcode, "d_in": WIDTH,
    }  # fmt: skip
    sae = load_sae(written(tmp_path / folder, cfg, tensors, "sae.safetensors"))
    x = states()
    q = relu((x if transcode else x - w["b_dec"]) @ w["W_enc"] + w["b_enc"])
    if activation == "topk":
        codes = largest(q, k)
    else:
        codes = torch.zeros_like(q)
        for row in range(len(q)):
            for group in range(k):
                members = range(group * COUNT // k, (group + 1) * COUNT // k)
                best = max(members, key=lambda i: float(q[row, i]))
                codes[row, best] = q[row, best]
    agree(sae.encode(x), codes)
    agree(sae.decode(codes, x), codes @ w["W_dec"] + w["b_dec"] + (x @ W_skip.T if skip else 0))
    assert sae.at == ("blocks.24.mlp.hook_out" if transcode else "blocks.24.hook_resid_post")
    assert sae.at_in == ("blocks.24.mlp.hook_in" if transcode else None)
    bare = {name: cfg[name] for name in ("expansion_factor", "k", "d_in", "transcode", "skip_connection", "activation")}
    agree(load_sae(written(tmp_path / "more" / folder, bare, tensors, "sae.safetensors")).encode(x), codes)


# -- dictionary_learning -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind",
    [
        *(
            "AutoEncoder",
            "AutoEncoderNew",
            "AutoEncoderTopK",
            "BatchTopKSAE",
            "GatedAutoEncoder",
            "JumpReluAutoEncoder",
        ),
        "MatryoshkaBatchTopKSAE",
    ],
)
def test_dictionary_learning(kind: str, tmp_path: Path) -> None:
    w, x = drawn(), states()
    make = torch.Generator().manual_seed(5)
    norms = (w["W_dec"] ** 2).sum(1).sqrt()
    linear = {"encoder.weight": w["W_enc"].T, "encoder.bias": w["b_enc"], "decoder.weight": w["W_dec"].T}
    threshold, one = torch.rand(COUNT, generator=make) / 2, torch.tensor(0.4)
    centred = relu((x - w["b_dec"]) @ w["W_enc"] + w["b_enc"])
    tensors, codes, scale = (
        linear | {"b_dec": w["b_dec"], "k": torch.tensor(K), "threshold": one},
        centred,
        torch.ones(COUNT),
    )
    if kind == "AutoEncoder":
        tensors = linear | {"bias": w["b_dec"]}
    elif kind == "AutoEncoderNew":
        tensors, codes = linear | {"decoder.bias": w["b_dec"]}, relu(x @ w["W_enc"] + w["b_enc"])
    elif kind == "AutoEncoderTopK":
        codes = largest(centred, K)
    elif kind == "BatchTopKSAE":
        codes = centred * (centred > one)
    elif kind == "GatedAutoEncoder":
        gate, mag, r = (torch.randn(COUNT, generator=make) / 3 for _ in range(3))
        tensors = {
            "encoder.weight": w["W_enc"].T, "decoder.weight": w["W_dec"].T, "decoder_bias": w["b_dec"],
            "gate_bias": gate, "mag_bias": mag, "r_mag": r,
        }  # fmt: skip
        products = (x - w["b_dec"]) @ w["W_enc"]
        codes, scale = (products + gate > 0) * relu(r.exp() * products + mag) * norms, norms
    elif kind == "JumpReluAutoEncoder":
        tensors = w | {"threshold": threshold}
        p = x @ w["W_enc"] + w["b_enc"]
        codes, scale = relu(p * (p > threshold)) * norms, norms
    else:
        tensors = w | {"k": torch.tensor(K), "threshold": one, "group_sizes": torch.tensor([10, 20])}
        codes = centred * (centred > one)
    trainer = {
        "dict_class": kind, "activation_dim": WIDTH, "dict_size": COUNT, "layer": 3, "submodule_name": "resid_post_layer_3",
        "lm_name": "EleutherAI/pythia-70m", "k": K,
    }  # fmt: skip
    sae = load_sae(written(tmp_path, {"trainer": trainer, "buffer": {"ctx_len": 128}}, tensors, "ae.pt", "config.json"))
    agree(sae.encode(x), codes)
    agree(sae.decode(codes), (codes / scale) @ w["W_dec"] + w["b_dec"])
    assert sae.at == "blocks.3.hook_resid_post"


# -- what is refused -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"architecture": "temporal"},
            "architecture='temporal': codes depend on the states before; those that can be used",
        ),
        ({"architecture": "matching_pursuit"}, "'matching_pursuit': codes are found step by step"),
        ({"architecture": "abstopk"}, "'abstopk': codes are of either sign"),
        ({"architecture": "relu6"}, "architecture='relu6'; those that can be used are 'standard', 'gated'"),
        ({"normalize_activations": "expected_average_only_in"}, "has to be folded into the weights: sae.fold"),
        ({"normalize_activations": "covariance_whitening"}, "'covariance_whitening' is left out where SAELens uses"),
        ({"normalize_activations": "l2"}, "normalize_activations='l2'; possible are 'none', 'constant_norm_rescale'"),
        ({"reshape_activations": "hook_q"}, "reshape_activations='hook_q'; possible are 'none', 'hook_z'"),
        ({"rescale_acts_by_decoder_norm": True}, "has no meaning for architecture='standard'"),
        ({"topk": 5}, "has settings that SAELens is not known to have: 'topk'=5"),
        ({"d_sae": 31}, "configuration is that of other weights: d_sae=31 for 30"),
        ({"architecture": "jumprelu"}, "lacks threshold; expected are W_enc, b_enc, W_dec, b_dec, threshold"),
        ({"architecture": "gated"}, "lacks b_gate, b_mag, r_mag and holds b_enc, which nothing here uses"),
        ({"architecture": "topk", "k": 0}, r"'topk' needs k in 1\.\.30, found k=0"),
        ({"architecture": "batchtopk", "k": 4}, "a threshold that stands for that is missing; save it for inference"),
        ({"metadata": {"sae_lens_version": "6.1.0", "hook_name": AT, "hook_head_index": 3}}, "on head 3 alone"),
        (
            {"metadata": {}, "finetuning_scaling_factor": True},
            "finetuning_scaling_factor: codes were scaled by factors",
        ),
        ({"metadata": {}, "activation_fn": "tanh-relu"}, "activation_fn='tanh-relu'"),
        ({"architecture": "transcoder", "d_out": WIDTH, "W_skip": 1}, "'W_skip'=1"),
    ],
)
def test_what_nothing_can_do_right_is_refused_by_name(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    cfg = {**saelens_cfg("standard"), **change}
    path = written(tmp_path, cfg, drawn(), "sae_weights.safetensors")
    with pytest.raises(InputError, match=message) as raised:
        load_sae(path)
    assert str(raised.value).startswith(f"{tmp_path} cannot be used: ")


def test_factors_that_nobody_applies_are_refused_unless_they_are_1(tmp_path: Path) -> None:
    tensors = drawn() | {"finetuning_scaling_factor": torch.full((COUNT,), 1.1)}
    with pytest.raises(InputError, match="factors that are not 1, which SAELens keeps and never applies"):
        load_sae(written(tmp_path, {**LEGACY, "finetuning_scaling_factor": True}, tensors, "sae_weights.safetensors"))


@pytest.mark.parametrize(
    ("change", "tensors", "message"),
    [
        ({"architecture": "topk"}, {}, "architecture='topk'; possible are 'jump_relu'"),
        ({"type": "crosscoder"}, {}, "type='crosscoder'; possible are 'sae', 'transcoder'"),
        ({"affine_connection": True}, {}, "lacks affine_skip_connection"),
        ({}, {"affine_skip_connection": torch.eye(WIDTH)}, "holds affine_skip_connection, which nothing here uses"),
        ({}, {"w_dec": torch.zeros(COUNT, 3, WIDTH)}, "writes into several layers"),
        ({"width": 16384}, {}, "that of other weights: width=16384 for 30"),
        ({"type": "transcoder"}, {}, "reads and writes model.layers.7.output"),
        ({"gain": 2}, {}, "settings that Gemma Scope is not known to have: 'gain'=2"),
    ],
)
def test_what_gemma_scope_cannot_mean_is_refused(
    change: dict[str, Any], tensors: Tensors, message: str, tmp_path: Path
) -> None:
    weights = {name.lower(): tensor for name, tensor in (drawn() | {"threshold": torch.zeros(COUNT)}).items()}
    cfg = {"architecture": "jump_relu", "hf_hook_point_in": "model.layers.7.output", **change}
    with pytest.raises(InputError, match=message):
        load_sae(written(tmp_path, cfg, weights | tensors, "params.safetensors", "config.json"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"activation": "batchtopk"}, "activation='batchtopk'; possible are 'topk', 'groupmax'"),
        ({"signed": True}, "signed=True; possible are False"),
        ({"skip_connection": True}, "skip_connection=True without transcode=True"),
        ({"k": None}, "k=None must be the number of features that are kept"),
        ({"activation": "groupmax", "k": 7}, "needs groups of equal size, and 30 features are no 7 groups"),
        ({"width": 3}, "settings that sparsify is not known to have: 'width'=3"),
    ],
)
def test_what_sparsify_cannot_mean_is_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    w = drawn()
    tensors = {"encoder.weight": w["W_enc"].T, "encoder.bias": w["b_enc"], "W_dec": w["W_dec"], "b_dec": w["b_dec"]}
    with pytest.raises(InputError, match=message):
        load_sae(written(tmp_path, {"num_latents": COUNT, "k": 3, "d_in": WIDTH, **change}, tensors, "sae.safetensors"))


def code_in_a_pickle(path: Path) -> None:
    """A pickle that would run code."""
    torch.save({"model": torch.nn.Linear(2, 2)}, path / "ae.pt")
    (path / "config.json").write_text(json.dumps({"trainer": {"dict_class": "AutoEncoder"}}))


def cut_off(path: Path) -> None:
    """The end of a download that stopped."""
    file = written(path, saelens_cfg("standard"), drawn(), "sae_weights.safetensors") / "sae_weights.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (code_in_a_pickle, InputError, "holds more than tensors, or is damaged: it is opened without running"),
        (cut_off, DamagedFileError, "is no safetensors file, or a damaged one"),
        (lambda path: (path / "clip.pt").write_bytes(b"x"), InputError, "clip.pt, which only running what it holds could open"),
        (lambda path: (path / "layers.3").mkdir(), InputError, r"holds layers\.3, .* Its folders are layers\.3: name one"),
        (lambda path: None, InputError, "holds nothing, and one file of weights is expected"),
        (lambda path: save_file(drawn(), path / "sae.safetensors"), InputError, "No cfg.json or config.json beside"),
        (lambda path: written(path, [], drawn(), "sae.safetensors"), InputError, "holds a list, where a configuration"),
        (lambda path: written(path, {"a": 1}, drawn(), "sae.safetensors"), InputError, "of no trainer .*; it says a"),
        (
            lambda path: written(path, {}, drawn(), "sae.safetensors").joinpath("cfg.json").write_text("{"),
            DamagedFileError,
            "is not a JSON file",
        ),
        (
            lambda path: written(path, saelens_cfg("standard"), drawn() | {"b_dec": NAN}, "sae.safetensors"),
            DamagedFileError,
            "holds NaN or infinity in b_dec",
        ),
    ],
)  # fmt: skip
def test_files_that_are_missing_or_damaged_are_named(
    make: Callable[[Path], object], error: type[Exception], message: str, tmp_path: Path
) -> None:
    make(tmp_path)
    with pytest.raises(error, match=message):
        load_sae(tmp_path)
    with pytest.raises(InputError, match="There is no file of a sparse dictionary at"):
        load_sae(tmp_path / "nowhere")


def test_where_a_dictionary_belongs_can_be_said(tmp_path: Path) -> None:
    path = written(tmp_path, saelens_cfg("transcoder"), saelens_tensors("transcoder"), "sae_weights.safetensors")
    sae = load_sae(path, at="vision.blocks.1.hook_mlp_out", at_in="vision.blocks.1.hook_resid_mid")
    assert (sae.at, sae.at_in) == ("vision.blocks.1.hook_mlp_out", "vision.blocks.1.hook_resid_mid")
    plain = written(tmp_path / "plain", saelens_cfg("standard"), drawn(), "sae_weights.safetensors")
    with pytest.raises(InputError, match="is an autoencoder, which reads what it gives back; leave out at_in"):
        load_sae(plain, at_in=AT)


# -- writing -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", AUTOENCODERS + TRANSCODERS)
def test_what_is_written_is_saelens_own_format_and_read_back_the_same(architecture: str, tmp_path: Path) -> None:
    cfg = saelens_cfg(architecture, apply_b_dec_to_input="transcoder" in architecture)
    w = saelens_tensors(architecture)
    sae = load_sae(written(tmp_path / "first", cfg, w, "sae_weights.safetensors"))
    save_sae(sae, tmp_path / "again", metadata={"model_name": "a-model"})
    again = load_sae(tmp_path / "again")
    assert torch.equal(again.encode(states()), sae.encode(states()))
    assert (again.at, again.at_in) == (sae.at, sae.at_in)
    kept = json.loads((tmp_path / "again" / "cfg.json").read_text())
    known_as = {"batchtopk": "jumprelu", "matryoshka_batchtopk": "jumprelu"}
    assert kept["architecture"] == known_as.get(architecture, architecture)
    assert {**cfg, "architecture": None, "metadata": None} == {**kept, "architecture": None, "metadata": None}


def test_a_flipped_bit_of_a_written_file_is_found(tmp_path: Path) -> None:
    save_sae(SparseDictionary(**drawn(), at=AT), tmp_path)
    file = tmp_path / "sae_weights.safetensors"
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)
    with pytest.raises(DamagedFileError, match="does not match its checksum"):
        load_sae(tmp_path)


# -- the object ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"b_enc": torch.zeros(3)}, r"b_enc \[3\] for \[30\]"),
        ({"W_dec": torch.zeros(COUNT, 5), "b_dec": torch.zeros(5)}, "reads d=12 and writes d=5: a transcoder"),
        ({"activation": "topk"}, r"needs k in 1\.\.30, found k=None"),
        ({"k": 3}, "k=3 has no meaning for activation='relu'"),
        ({"threshold": torch.zeros(COUNT)}, "'relu' has a tensor 'threshold', which 'jumprelu' alone needs"),
        ({"W_skip": torch.eye(WIDTH)}, "goes past the features of a transcoder"),
    ],
)
def test_pieces_that_contradict_each_other_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        SparseDictionary(**{**drawn(), **change})


def test_codes_and_states_must_fit() -> None:
    sae = SparseDictionary(**drawn(), at=AT, normalization="layer_norm")
    with pytest.raises(InputError, match=r"States must be \[\.\.\. d=12\] .* found \[4, 5\]"):
        sae.encode(torch.zeros(4, 5))
    with pytest.raises(InputError, match=r"codes must be \[\.\.\. feature=30\], found \[4, 5\]"):
        sae.decode(torch.zeros(4, 5))
    with pytest.raises(InputError, match=r"gives each state its norm back, .*: decode\(codes, x\)"):
        sae.decode(torch.zeros(4, COUNT))
    assert torch.equal(sae.direction(3).direction, sae.W_dec[3])
    with pytest.raises(InputError, match="There is no feature 30; features run from 0 to 29"):
        sae.direction(30)
