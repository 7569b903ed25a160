"""Gemma Scope 2: `config.json` and `params.safetensors`, autoencoders and transcoders of Gemma 3.

Sites are those of transformers: `attn_out` is what the last linear of attention receives (heads side by side), `mlp_out` what is
added to the stream, behind the norm; a transcoder reads what the MLP receives, behind the norm in front of it.

Source: https://huggingface.co/google/gemma-scope-2-4b-pt and its siblings.
"""

from collections.abc import Mapping
from typing import Any

from mmlens.analysis.features.dictionary import SparseDictionary
from mmlens.analysis.features.formats.pieces import Files
from mmlens.analysis.features.formats.sites import point_of

_SETTINGS = {
    *(
        "hf_hook_point_in",
        "hf_hook_point_out",
        "width",
        "model_name",
        "architecture",
        "l0",
        "affine_connection",
        "type",
    ),
}


def reads(cfg: Mapping[str, Any]) -> bool:
    """Whether a configuration is Gemma Scope's."""
    return "hf_hook_point_in" in cfg


def read(files: Files) -> SparseDictionary:
    """The dictionary of Gemma Scope's files.

    Raises:
        InputError: for what cannot be right, by name.
    """
    files.require_known(_SETTINGS, "Gemma Scope")
    files.require(architecture=("jump_relu", "jumprelu"), type=("sae", "transcoder"))
    place_in = str(files.cfg["hf_hook_point_in"])
    place_out = str(files.cfg.get("hf_hook_point_out") or place_in)
    transcodes = files.cfg.get("type") == "transcoder" or place_in != place_out
    affine = bool(files.cfg.get("affine_connection"))
    skip = ("affine_skip_connection",) if affine else ()
    tensors = files.named("w_enc", "b_enc", "w_dec", "b_dec", "threshold", *skip)
    if tensors["w_dec"].ndim != 2:
        raise files.wrong(
            f"w_dec {list(tensors['w_dec'].shape)} writes into several layers (a cross-layer transcoder), which are several "
            "points."
        )
    if transcodes and place_in == place_out:
        raise files.wrong(
            f"it is a transcoder that reads and writes {place_in}; hf_hook_point_out must be another place."
        )
    points = [point_of(place) for place in (place_in, place_out)]
    return SparseDictionary(
        tensors["w_enc"],
        tensors["b_enc"],
        tensors["w_dec"],
        tensors["b_dec"],
        points[1],
        points[0] if transcodes else None,
        "jumprelu",
        threshold=tensors["threshold"],
        W_skip=tensors["affine_skip_connection"].T if affine else None,
        centred=False,
        cfg=files.cfg,
    )
