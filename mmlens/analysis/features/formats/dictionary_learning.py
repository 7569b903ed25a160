"""dictionary_learning: `config.json` and `ae.pt`, whose tensors are read without running what else a pickle may hold.

Source: https://github.com/saprmarks/dictionary_learning (dictionary.py).
"""

from collections.abc import Mapping
from typing import Any

import torch

from mmlens.analysis.features.dictionary import SparseDictionary
from mmlens.analysis.features.formats.pieces import Files, row_norms
from mmlens.analysis.features.formats.sites import point_of

_LINEAR = ("encoder.weight", "encoder.bias", "decoder.weight")
_PARTS = {"resid_post": "hook_resid_post", "mlp_out": "hook_mlp_out"}
_CLASSES = (
    *("AutoEncoder", "AutoEncoderNew", "AutoEncoderTopK", "GatedAutoEncoder", "JumpReluAutoEncoder", "BatchTopKSAE"),
    "MatryoshkaBatchTopKSAE",
)


def reads(cfg: Mapping[str, Any]) -> bool:
    """Whether a configuration is dictionary_learning's."""
    return isinstance(cfg.get("trainer"), Mapping) and "dict_class" in cfg["trainer"]


def read(files: Files) -> SparseDictionary:
    """The dictionary of dictionary_learning's files.

    Raises:
        InputError: for a class that is not known.
    """
    trainer = files.cfg["trainer"]
    kind = trainer["dict_class"]
    at = _point(trainer)
    if kind == "AutoEncoder":
        w = files.named(*_LINEAR, "bias")
        return _of(w, w["encoder.bias"], w["bias"], at, files)
    if kind == "AutoEncoderNew":
        w = files.named(*_LINEAR, "decoder.bias")
        return _of(w, w["encoder.bias"], w["decoder.bias"], at, files, centred=False)
    if kind == "AutoEncoderTopK":
        w = files.named(*_LINEAR, "b_dec", "k", "threshold", optional=("k", "threshold"))
        k = int(w["k"]) if "k" in w else int(trainer.get("k") or 0)
        return _of(w, w["encoder.bias"], w["b_dec"], at, files, activation="topk", k=k)
    if kind == "BatchTopKSAE":
        w = files.named(*_LINEAR, "b_dec", "k", "threshold", optional=("k",))
        return _of(w, w["encoder.bias"], w["b_dec"], at, files, **_above(w["threshold"], len(w["encoder.bias"]), files))
    if kind == "GatedAutoEncoder":
        w = files.named("encoder.weight", "decoder.weight", "decoder_bias", "r_mag", "gate_bias", "mag_bias")
        norms = row_norms(w["decoder.weight"].T)
        w |= {"decoder.weight": w["decoder.weight"] / norms}
        gate = {"b_gate": w["gate_bias"], "r_mag": w["r_mag"] + norms.log()}
        return _of(w, w["mag_bias"] * norms, w["decoder_bias"], at, files, activation="gated", **gate)
    if kind == "JumpReluAutoEncoder":
        w = files.named("W_enc", "b_enc", "W_dec", "b_dec", "threshold")
        norms = row_norms(w["W_dec"])
        w |= {"encoder.weight": (w["W_enc"] * norms).T, "decoder.weight": (w["W_dec"] / norms[:, None]).T}
        jump: dict[str, Any] = {"activation": "jumprelu", "threshold": w["threshold"] * norms, "centred": False}
        return _of(w, w["b_enc"] * norms, w["b_dec"], at, files, **jump)
    if kind == "MatryoshkaBatchTopKSAE":
        names = ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")
        w = files.named(*names, "k", "group_sizes", optional=("k", "group_sizes"))
        w |= {"encoder.weight": w["W_enc"].T, "decoder.weight": w["W_dec"].T}
        return _of(w, w["b_enc"], w["b_dec"], at, files, **_above(w["threshold"], len(w["b_enc"]), files))
    raise files.wrong(f"dict_class={kind!r} is not among those that can be used: {', '.join(map(repr, _CLASSES))}.")


def _of(
    tensors: Mapping[str, torch.Tensor],
    b_enc: torch.Tensor,
    b_dec: torch.Tensor,
    at: str,
    files: Files,
    **settings: Any,
) -> SparseDictionary:
    """The dictionary of a class's tensors, whose linears lie the other way round."""
    W_enc, W_dec = tensors["encoder.weight"].T, tensors["decoder.weight"].T
    return SparseDictionary(W_enc, b_enc, W_dec, b_dec, at, cfg=files.cfg, **settings)


def _above(threshold: torch.Tensor, count: int, files: Files) -> dict[str, Any]:
    """One threshold for all features, which stands for what was chosen over a batch.

    Raises:
        InputError: if there is none yet.
    """
    if threshold.numel() != 1 or float(threshold) < 0:
        raise files.wrong("its threshold was never set (it was saved early in its training), so codes are not decided.")
    return {"activation": "jumprelu", "threshold": threshold.float().reshape(1).expand(count)}


def _point(trainer: Mapping[str, Any]) -> str:
    """Where it was trained, by `layer` and `submodule_name`; empty where they do not say."""
    layer, name = trainer.get("layer"), str(trainer.get("submodule_name") or "")
    match = next((part for key, part in _PARTS.items() if name.startswith(key)), None)
    if match and isinstance(layer, int):
        return f"blocks.{layer}.{match}"
    return point_of(name)
