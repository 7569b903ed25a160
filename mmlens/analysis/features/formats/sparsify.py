"""sparsify, and multimodal-sae, which uses its format: `<module>/cfg.json` and `sae.safetensors`.

The folder is named after the module whose output was encoded, `layers.24` or `model.layers.24`; a transcoder's module says
both what is read and what is written.

Source: https://github.com/EleutherAI/sparsify, 1.3 (sparse_coder.py, fused_encoder.py); Zhang et al., "Large Multi-modal Models
Can Interpret Features in Large Multi-modal Models", 2024 (https://arxiv.org/abs/2411.14982).
"""

from collections.abc import Mapping
from typing import Any, Literal

from mmlens.analysis.features.dictionary import SparseDictionary
from mmlens.analysis.features.formats.pieces import Files
from mmlens.analysis.features.formats.sites import point_of

_SETTINGS = {
    *("activation", "expansion_factor", "normalize_decoder", "num_latents", "k", "multi_topk", "skip_connection"),
    *("transcode", "d_in", "signed"),
}


def reads(cfg: Mapping[str, Any]) -> bool:
    """Whether a configuration is sparsify's."""
    return "num_latents" in cfg or "expansion_factor" in cfg


def read(files: Files) -> SparseDictionary:
    """The dictionary of sparsify's files.

    Raises:
        InputError: for what cannot be right, by name.
    """
    files.require_known(_SETTINGS, "sparsify")
    files.require(activation=("topk", "groupmax"), signed=(False,))
    skips, transcodes = bool(files.cfg.get("skip_connection")), bool(files.cfg.get("transcode"))
    if skips and not transcodes:
        raise files.wrong(
            "skip_connection=True without transcode=True: what goes past the features is the state itself."
        )
    skip = ("W_skip",) if skips else ()
    tensors = files.named("encoder.weight", "encoder.bias", "W_dec", "b_dec", *skip)
    if not isinstance(files.cfg.get("k"), int):
        raise files.wrong(f"k={files.cfg.get('k')!r} must be the number of features that are kept.")
    activation: Literal["topk", "groupmax"] = "groupmax" if files.cfg.get("activation") == "groupmax" else "topk"
    return SparseDictionary(
        tensors["encoder.weight"].T,
        tensors["encoder.bias"],
        tensors["W_dec"],
        tensors["b_dec"],
        point_of(f"{files.folder}.output"),
        point_of(f"{files.folder}.input") if transcodes else None,
        activation,
        files.cfg["k"],
        W_skip=tensors.get("W_skip"),
        cfg=files.cfg,
    )
