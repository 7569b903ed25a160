"""Writing sparse dictionaries in SAELens's format."""

import json
from typing import Any, Literal, TypeAlias

import torch

from mmlens.analysis.features.dictionary import SparseDictionary
from mmlens.analysis.features.files import FORM
from mmlens.core.contract import checked
from mmlens.core.errors import InputError
from mmlens.core.files import made_folder, whole_file
from mmlens.core.kinds import PathLike
from mmlens.core.tensor_files import write_tensor_file

_ARCHITECTURES = {"relu": "standard", "topk": "topk", "jumprelu": "jumprelu", "gated": "gated"}
_TRANSCODERS = {"relu": "transcoder", "jumprelu": "jumprelu_transcoder"}
#: The format's version that is written.
_VERSION = "6.54.12"
#: In what numbers weights are kept.
WeightType: TypeAlias = Literal["float32", "float16", "bfloat16"]


@checked
def save_sae(
    sae: SparseDictionary,
    folder: PathLike,
    *,
    metadata: dict[str, Any] | None = None,
    dtype: WeightType | None = None,
) -> None:
    """Write a dictionary as SAELens reads it, `cfg.json` and `sae_weights.safetensors`, with checksums.

    Args:
        sae: the dictionary.
        folder: is made if it is not there.
        metadata: what else is known of it, e.g. the model and what it was trained on.
        dtype: of the weights in the file, which are read back as float32 at least; as they are by default.

    Raises:
        InputError: for what SAELens has no architecture for (`groupmax`, a transcoder of kept or gated features),
            or weights that are too large for `dtype`.
    """
    name = _architecture(sae)
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
        "dtype": dtype or str(sae.W_enc.dtype).removeprefix("torch."),
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
    path = made_folder(folder)
    weights = {
        key: tensor if dtype is None else tensor.to(getattr(torch, dtype))
        for key, tensor in tensors.items()
        if tensor is not None
    }
    large = [key for key, tensor in weights.items() if not tensor.isfinite().all()]
    if large:
        raise InputError(f"{', '.join(large)} hold numbers that are too large for {dtype}; save them as float32.")
    write_tensor_file(path / "sae_weights.safetensors", weights, {"format": FORM})
    with whole_file(path / "cfg.json") as temporary:
        temporary.write_text(text, encoding="utf-8")


def _architecture(sae: SparseDictionary) -> str:
    """SAELens's name for the kind of a dictionary; refuses those for which it has none."""
    name = (_TRANSCODERS if sae.is_transcoder else _ARCHITECTURES).get(sae.activation)
    if name is None:
        kind = "transcoder" if sae.is_transcoder else "autoencoder"
        raise InputError(
            f"SAELens has no {kind} with activation={sae.activation!r}, so its format cannot hold this one."
        )
    return name if sae.W_skip is None else name.replace("transcoder", "skip_transcoder")
