"""SAELens: `cfg.json` and `sae_weights.safetensors`, of version 6 and as they were before.

Source: https://github.com/decoderesearch/SAELens, 6.54 (saes/*.py, loading/pretrained_sae_loaders.py).
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from mmlens.analysis.features.dictionary import SparseDictionary
from mmlens.analysis.features.dictionary_form import Activation
from mmlens.analysis.features.formats.pieces import Files, row_norms
from mmlens.analysis.features.formats.sites import point_of

#: By architecture: how codes come about; those that choose over a batch are saved with thresholds.
_ARCHITECTURES: dict[str, Activation] = {
    "standard": "relu",
    "gated": "gated",
    "jumprelu": "jumprelu",
    "topk": "topk",
    "batchtopk": "jumprelu",
    "matryoshka_batchtopk": "jumprelu",
    "transcoder": "relu",
    "skip_transcoder": "relu",
    "jumprelu_transcoder": "jumprelu",
    "jumprelu_skip_transcoder": "jumprelu",
}
_REFUSED = {
    "temporal": "codes depend on the states before",
    "matching_pursuit": "codes are found step by step from what is left of the state",
    "abstopk": "codes are of either sign, and which are kept goes by their size",
    "phase_multiplexed": "codes depend on the position",
    "clt": "it writes into several layers",
}
_NAMES: dict[Activation, tuple[str, ...]] = {
    "relu": ("W_enc", "b_enc", "W_dec", "b_dec"),
    "topk": ("W_enc", "b_enc", "W_dec", "b_dec"),
    "jumprelu": ("W_enc", "b_enc", "W_dec", "b_dec", "threshold"),
    "gated": ("W_enc", "b_gate", "b_mag", "r_mag", "W_dec", "b_dec"),
}
#: Settings of version 6, and those that a training run leaves in its configuration.
_SETTINGS = {
    *("architecture", "d_in", "d_sae", "d_out", "dtype", "device", "apply_b_dec_to_input", "normalize_activations"),
    *("reshape_activations", "metadata", "k", "rescale_acts_by_decoder_norm"),
}
_TRAINING = {
    *("decoder_init_norm", "noise_magnitude", "use_sparse_activations", "aux_loss_coefficient", "topk_threshold_lr"),
    *("matryoshka_widths", "use_matryoshka_aux_loss", "l1_coefficient", "lp_norm", "l1_warm_up_steps", "target_l0"),
    *("jumprelu_init_threshold", "jumprelu_bandwidth", "jumprelu_sparsity_loss_mode", "l0_coefficient"),
    *("l0_warm_up_steps", "pre_act_loss_coefficient", "jumprelu_tanh_scale", "jumprelu_ste_to_input"),
    *("init_encoder_as_decoder_transpose", "mse_loss_normalization", "normalize_sae_decoder"),
}
#: What a scaling factor by version 5 is called among the tensors.
_FACTORS = ("finetuning_scaling_factor", "scaling_factor")


def reads(cfg: Mapping[str, Any]) -> bool:
    """Whether a configuration is SAELens's."""
    return "d_sae" in cfg


def read(files: Files) -> SparseDictionary:
    """The dictionary of SAELens's files.

    Raises:
        InputError: for what cannot be right, by name.
    """
    version = str(files.cfg.get("sae_lens_version") or (files.cfg.get("metadata") or {}).get("sae_lens_version") or "")
    legacy = not (match := re.match(r"(\d+)\.", version)) or int(match[1]) < 6
    files = replace(files, cfg=_flat_as_new(files.cfg) if legacy else files.cfg)
    if not legacy:
        files.require_known(_SETTINGS | _TRAINING, "SAELens")
    cfg, metadata = files.cfg, files.cfg.get("metadata") or {}
    name = cfg.get("architecture", "standard")
    if name not in _ARCHITECTURES:
        why = f": {_REFUSED[name]}" if name in _REFUSED else ""
        raise files.wrong(
            f"architecture={name!r}{why}; those that can be used are {', '.join(map(repr, _ARCHITECTURES))}."
        )
    _require_usable(files)
    activation, transcodes = _ARCHITECTURES[name], "transcoder" in name
    tensors = _tensors(files, activation, "skip" in name)
    _fold_norms(files, name, tensors)
    at_in, at = _points(metadata, transcodes)
    return SparseDictionary(
        tensors["W_enc"],
        tensors["b_mag"] if activation == "gated" else tensors["b_enc"],
        tensors["W_dec"],
        tensors["b_dec"],
        at,
        at_in,
        activation,
        cfg.get("k", 100) if activation == "topk" else None,
        tensors.get("threshold"),
        tensors.get("b_gate"),
        tensors.get("r_mag"),
        tensors.get("W_skip"),
        centred=bool(cfg.get("apply_b_dec_to_input", True)),
        normalization=cfg.get("normalize_activations") or "none",
        cfg=cfg,
    )


def _require_usable(files: Files) -> None:
    """Refuse settings and factors whose meaning weights and thresholds do not hold."""
    cfg, head = files.cfg, (files.cfg.get("metadata") or {}).get("hook_head_index")
    files.require(reshape_activations=("none", "hook_z"))
    if cfg.get("normalize_activations") in ("expected_average_only_in", "covariance_whitening"):
        raise files.wrong(
            f"normalize_activations={cfg['normalize_activations']!r} is left out where SAELens uses an autoencoder, so it has to "
            "be folded into the weights: sae.fold_activation_norm_scaling_factor(...) or fold_activation_whitening(...) there, "
            "then save it."
        )
    files.require(normalize_activations=("none", "constant_norm_rescale", "layer_norm"))
    if head is not None:
        raise files.wrong(f"it was trained on head {head} alone (hook_head_index), and points hold all heads.")
    _refuse_factor(files)


def _fold_norms(files: Files, name: str, tensors: dict[str, torch.Tensor]) -> None:
    """Fold the norms of decoder rows by which codes are rescaled into the weights; those that are folded already stay."""
    if not files.cfg.get("rescale_acts_by_decoder_norm", False) or name in ("batchtopk", "matryoshka_batchtopk"):
        return
    if _ARCHITECTURES[name] != "topk":
        raise files.wrong(f"rescale_acts_by_decoder_norm has no meaning for architecture={name!r}.")
    norms = row_norms(tensors["W_dec"])
    tensors["W_enc"], tensors["b_enc"] = tensors["W_enc"] * norms, tensors["b_enc"] * norms
    tensors["W_dec"] = tensors["W_dec"] / norms[:, None]


def _tensors(files: Files, activation: Activation, skips: bool) -> dict[str, torch.Tensor]:
    """The tensors of an architecture, in float32 at least."""
    tensors = {name: tensor for name, tensor in files.tensors.items() if name not in _FACTORS}
    if "log_threshold" in tensors:
        tensors["threshold"] = tensors.pop("log_threshold").float().exp()
    if activation == "jumprelu" and "threshold" not in tensors and "topk" in str(files.cfg.get("architecture")):
        raise files.wrong(
            "it was saved while it was trained: codes were chosen over a batch, and a threshold that stands for that is "
            "missing; save it for inference."
        )
    tensors.pop("topk_threshold", None)
    names = (*_NAMES[activation], *(("W_skip",) if skips else ()))
    wide = {name: tensor.to(torch.promote_types(tensor.dtype, torch.float32)) for name, tensor in tensors.items()}
    return replace(files, tensors=wide).named(*names)


def _points(metadata: Mapping[str, Any], transcodes: bool) -> tuple[str | None, str]:
    """Where it reads, if elsewhere, and where it writes; transformers' names say more than those that SAELens made of them."""
    reads_at = point_of(str(metadata.get("hf_hook_name") or "")) or str(metadata.get("hook_name") or "")
    if not transcodes:
        return None, reads_at
    return reads_at, point_of(str(metadata.get("hf_hook_name_out") or "")) or str(metadata.get("hook_name_out") or "")


def _refuse_factor(files: Files) -> None:
    """Refuse factors on codes, which loaders keep and nothing applies, unless they are 1."""
    factors = [files.tensors[name] for name in _FACTORS if name in files.tensors]
    asks = files.cfg.get("finetuning_scaling_factor", False) not in (False, None)
    if (asks and not factors) or any(not torch.equal(factor, torch.ones_like(factor)) for factor in factors):
        raise files.wrong(
            "finetuning_scaling_factor: codes were scaled by factors that are not 1, which SAELens keeps and never applies; "
            "fold them into W_dec, or take a dictionary without."
        )


def _flat_as_new(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration as it was before version 6, whose settings all stand side by side, in the form of version 6."""
    old = {{"hook_point": "hook_name", "activation_fn_str": "activation_fn"}.get(name, name): cfg[name] for name in cfg}
    old |= {"hook_head_index": old.get("hook_head_index", old.get("hook_point_head_index"))}
    old |= old.pop("metadata", None) or {}
    new = {name: old[name] for name in (*_SETTINGS, "finetuning_scaling_factor") if name in old}
    function, options = old.get("activation_fn") or "relu", old.get("activation_fn_kwargs") or {}
    new.setdefault("architecture", "standard")
    if function == "topk":
        new |= {"architecture": "topk", "k": old.get("k", options.get("k", 0))}
    elif function != "relu":
        new["architecture"] = f"standard with activation_fn={function!r}"
    if isinstance(old.get("normalize_activations"), bool):
        new["normalize_activations"] = "expected_average_only_in" if old["normalize_activations"] else "none"
    new["metadata"] = {name: value for name, value in old.items() if name not in new}
    return new
