"""Autoencoders from outside are used as their configuration says: against SAELens's and sparsify's arithmetic, by hand."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from mmlens.analysis.concepts.bank import ConceptBank
from mmlens.core.errors import InputError

AT = "blocks.1.hook_resid_post"
WIDTH, COUNT = 12, 30
ONE = torch.ones(1)
SAELENS: dict[str, Any] = {
    "d_in": WIDTH,
    "d_sae": COUNT,
    "dtype": "float32",
    "apply_b_dec_to_input": True,
    "normalize_activations": "none",
    "reshape_activations": "none",
    "metadata": {"hook_name": AT, "sae_lens_version": "6.54.12"},
}


def drawn(seed: int = 0) -> dict[str, torch.Tensor]:
    """Weights whose decoder rows differ much in length."""
    make = torch.Generator().manual_seed(seed)
    lengths = torch.logspace(-1, 1, COUNT)[torch.randperm(COUNT, generator=make)]
    return {
        "W_enc": torch.randn(WIDTH, COUNT, generator=make),
        "b_enc": torch.randn(COUNT, generator=make),
        "W_dec": torch.randn(COUNT, WIDTH, generator=make) * lengths[:, None],
        "b_dec": 2 * torch.randn(WIDTH, generator=make),
    }


def folder(
    path: Path, configuration: dict[str, Any] | None, tensors: dict[str, torch.Tensor], name: str = "cfg.json"
) -> Path:
    """A folder as trainers write it."""
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, path / "sae_weights.safetensors")
    if configuration is not None:
        (path / name).write_text(json.dumps(configuration))
    return path


def largest(p: torch.Tensor, k: int) -> torch.Tensor:
    """The k largest of each row, the others 0."""
    least = p.sort(dim=1, descending=True).values[:, k - 1 : k]
    return torch.where(p >= least, p, 0).clamp_min(0)


def saelens(w: dict[str, torch.Tensor], x: torch.Tensor, about: dict[str, Any]) -> torch.Tensor:
    """What SAELens gives back for some states: its encode and decode, written out."""
    p = (x - w["b_dec"] if about["apply_b_dec_to_input"] else x) @ w["W_enc"] + w["b_enc"]
    norm = w["W_dec"].norm(dim=1) if about.get("rescale_acts_by_decoder_norm") else torch.ones(COUNT)
    if about["architecture"] == "topk":
        codes = largest(p * norm, about["k"])
    elif about["architecture"] == "jumprelu":
        codes = p.clamp_min(0) * (p > w["threshold"])
    else:
        codes = p.clamp_min(0)
    return (codes / norm) @ w["W_dec"] + w["b_dec"]


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize(
    "about",
    [
        {"architecture": "standard"},
        {"architecture": "jumprelu"},
        {"architecture": "topk", "k": 4, "rescale_acts_by_decoder_norm": False},
        {"architecture": "topk", "k": 4, "rescale_acts_by_decoder_norm": True},
    ],
    ids=["standard", "jumprelu", "topk", "topk by decoder norm"],
)
def test_states_come_back_as_from_saelens(about: dict[str, Any], centred: bool, tmp_path: Path) -> None:
    configuration = {**SAELENS, **about, "apply_b_dec_to_input": centred}
    weights = drawn()
    if about["architecture"] == "jumprelu":
        weights["threshold"] = torch.linspace(-2, 2, COUNT)
    x = torch.randn(50, WIDTH, generator=torch.Generator().manual_seed(1)) + 3
    expected = saelens(weights, x, configuration)
    path = folder(tmp_path, configuration, weights)
    for given in (path, path / "sae_weights.safetensors"):
        bank = ConceptBank.from_sae(given, at=AT)
        torch.testing.assert_close(bank.decode(bank.encode(x)), expected, atol=1e-3, rtol=1e-4)
    others = [{**configuration, "apply_b_dec_to_input": not centred}]
    if about["architecture"] == "topk":
        others.append({**configuration, "rescale_acts_by_decoder_norm": not about["rescale_acts_by_decoder_norm"]})
    for other in others:
        assert (saelens(weights, x, other) - expected).abs().max() > 0.1, "the setting decides nothing here"


def test_a_sparsify_file_has_its_k_and_is_centred(tmp_path: Path) -> None:
    w = drawn()
    tensors = {"encoder.weight": w["W_enc"].T, "encoder.bias": w["b_enc"], "W_dec": w["W_dec"], "b_dec": w["b_dec"]}
    about = {
        "expansion_factor": 32,
        "num_latents": COUNT,
        "k": 3,
        "transcode": False,
        "skip_connection": False,
        "d_in": WIDTH,
    }
    bank = ConceptBank.from_sae(folder(tmp_path, about, tensors), at="blocks.24.hook_resid_post")
    x = torch.randn(20, WIDTH, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(
        bank.encode(x), largest((x - w["b_dec"]) @ w["W_enc"] + w["b_enc"], 3), atol=1e-4, rtol=1e-4
    )


def test_a_legacy_saelens_file_says_k_in_the_options_of_its_function(tmp_path: Path) -> None:
    about = {
        "d_in": WIDTH, "d_sae": COUNT, "hook_point": AT, "activation_fn_str": "topk", "activation_fn_kwargs": {"k": 5},
        "apply_b_dec_to_input": False, "normalize_activations": "none", "finetuning_scaling_factor": False,
    }  # fmt: skip
    w = drawn()
    bank = ConceptBank.from_sae(folder(tmp_path, about, w), at=AT)
    x = torch.randn(20, WIDTH, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(bank.encode(x), largest(x @ w["W_enc"] + w["b_enc"], 5), atol=1e-4, rtol=1e-4)


def test_gemma_scope_takes_nothing_off_the_state(tmp_path: Path) -> None:
    w = drawn() | {"threshold": torch.rand(COUNT)}
    tensors = {name.lower(): tensor for name, tensor in w.items()}
    place = "model.layers.24.output"
    about = {"architecture": "jump_relu", "hf_hook_point_in": place, "hf_hook_point_out": place, "width": COUNT}
    bank = ConceptBank.from_sae(folder(tmp_path, about, tensors, "config.json"), at=AT)
    x = torch.randn(20, WIDTH, generator=torch.Generator().manual_seed(1))
    p = x @ w["W_enc"] + w["b_enc"]
    torch.testing.assert_close(bank.encode(x), p.clamp_min(0) * (p > w["threshold"]), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"normalize_activations": "layer_norm"}, r"normalize_activations='layer_norm' \(possible here: 'none'\)"),
        ({"normalize_activations": "constant_norm_rescale"}, "normalize_activations='constant_norm_rescale'"),
        ({"normalize_activations": "expected_average_only_in"}, "normalize_activations='expected_average_only_in'"),
        ({"reshape_activations": "hook_z"}, "reshape_activations='hook_z'"),
        ({"finetuning_scaling_factor": True}, "finetuning_scaling_factor=True"),
        ({"architecture": "gated"}, "architecture='gated' is not among those that can be used: 'standard'"),
        ({"architecture": "skip_transcoder"}, "architecture='skip_transcoder' is not among"),
        ({"rescale_acts_by_decoder_norm": True}, "rescale_acts_by_decoder_norm has no meaning for 'standard'"),
        ({"metadata": {"hook_name": "blocks.3.hook_mlp_out"}}, "was trained at blocks.3.hook_mlp_out, not at blocks.1"),
        ({"architecture": "topk", "k": 0}, r"'topk' needs k in 1\.\.30, found k=0"),
        ({"architecture": "jumprelu"}, "nonlinearity='jumprelu', and .* lacks a tensor 'threshold'"),
        (
            {"d_sae": None, "expansion_factor": 8, "transcode": True},
            r"asks for transcode=True \(possible here: False\)",
        ),
    ],
)
def test_what_would_need_other_arithmetic_is_refused_by_name(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    about = {**SAELENS, "architecture": "standard", **change}
    with pytest.raises(InputError, match=message):
        ConceptBank.from_sae(folder(tmp_path, about, drawn()), at=AT)


def known(path: Path, about: dict[str, Any]) -> Path:
    """The folder, with a configuration beside the weights."""
    (path / "cfg.json").write_text(json.dumps(about))
    return path


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda path: path, {}, "beside .* says whether b_dec is taken off before encoding: give"),
        (lambda path: path.parent, {"centred": True}, "holds 0 safetensors files"),
        (lambda path: known(path, {"d_sae": 3}), {"centred": False}, "centred=False, and .* says True; leave it out"),
        (lambda path: known(path, {"a": 1}), {}, "of no trainer that is known here; it says a"),
        (lambda path: known(path, {}).joinpath("cfg.json").write_text("{") and path, {}, "is not a JSON file"),
        (lambda path: folder(path, None, drawn() | {"W_skip": ONE}), {"centred": True}, "holds W_skip too"),
        (
            lambda path: folder(path, None, drawn() | {"threshold": torch.zeros(COUNT)}),
            {"centred": True, "nonlinearity": "relu"},
            "nonlinearity='relu', and .* has a tensor 'threshold'",
        ),
    ],
)
def test_what_is_not_said_or_not_understood_is_refused(
    change: Callable[[Path], Path], options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    (tmp_path / "sae").mkdir()
    path = change(folder(tmp_path / "sae", None, drawn()))
    with pytest.raises(InputError, match=message):
        ConceptBank.from_sae(path, at=AT, **options)
