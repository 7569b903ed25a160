"""Writing sparse dictionaries in SAELens's format."""

import json
from pathlib import Path
from typing import Any

import torch

from mmlens.analysis.features.dictionary import SparseDictionary
from mmlens.analysis.features.files import FORM
from mmlens.core.contract import checked
from mmlens.core.errors import InputError
from mmlens.core.files import whole_file
from mmlens.core.kinds import PathLike
from mmlens.core.tensor_files import write_tensor_file

_ARCHITECTURES = {"relu": "standard", "topk": "topk", "jumprelu": "jumprelu", "gated": "gated"}
#: The format's version that is written.
_VERSION = "6.54.12"


@checked
def save_sae(sae: SparseDictionary, folder: PathLike, *, metadata: dict[str, Any] | None = None) -> None:
    """Write a dictionary as SAELens reads it, `cfg.json` and `sae_weights.safetensors`, with checksums.

    Args:
        sae: the dictionary.
        folder: is made if it is not there.
        metadata: what else is known of it, e.g. the model and what it was trained on.

    Raises:
        InputError: for what SAELens has no architecture for (`groupmax`, a transcoder of kept or gated features).
    """
    name = _ARCHITECTURES.get(sae.activation)
    if sae.is_transcoder:
        kinds = {"relu": "transcoder", "jumprelu": "jumprelu_transcoder"}
        name = kinds.get(sae.activation)
        if name and sae.W_skip is not None:
            name = name.replace("transcoder", "skip_transcoder")
    if name is None:
        kind = "transcoder" if sae.is_transcoder else "autoencoder"
        raise InputError(
            f"SAELens has no {kind} with activation={sae.activation!r}, so its format cannot hold this one."
        )
    tensors: dict[str, torch.Tensor | None] = {
        "W_enc": sae.W_enc,
        "b_mag" if sae.activation == "gated" else "b_enc": sae.b_enc,
        "W_dec": sae.W_dec,
        "b_dec": sae.b_dec,
        **{piece: getattr(sae, piece) for piece in ("threshold", "b_gate", "r_mag", "W_skip")},
    }
    places = {"hook_name": sae.at_in, "hook_name_out": sae.at} if sae.is_transcoder else {"hook_name": sae.at}
    cfg: dict[str, Any] = {
        "architecture": name,
        "d_in": sae.d_in,
        "d_sae": len(sae),
        "dtype": str(sae.W_enc.dtype).removeprefix("torch."),
        "device": "cpu",
        "apply_b_dec_to_input": sae.centred or sae.is_transcoder,
        "normalize_activations": sae.normalization,
        "reshape_activations": "hook_z" if (sae.at_in or sae.at).endswith("hook_z") else "none",
        "metadata": {"sae_lens_version": _VERSION, **places, **(metadata or {})},
    }
    cfg |= {"d_out": sae.d_out} if sae.is_transcoder else {}
    cfg |= {"k": sae.k, "rescale_acts_by_decoder_norm": False} if sae.activation == "topk" else {}
    try:
        text = json.dumps(cfg, indent=2)
    except TypeError as error:
        raise InputError(f"metadata must be plain data, which JSON can hold: {error}.") from error
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    weights = {key: tensor for key, tensor in tensors.items() if tensor is not None}
    write_tensor_file(path / "sae_weights.safetensors", weights, {"format": FORM})
    with whole_file(path / "cfg.json") as temporary:
        temporary.write_text(text, encoding="utf-8")
