"""Sparse autoencoders from outside: their weights under the names that the common trainers give them."""

from pathlib import Path
from typing import get_args

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from mmlens.analysis.concepts.coders import Autoencoder, Nonlinearity
from mmlens.core.errors import InputError
from mmlens.core.files import require_file

#: Per piece, the names it goes by, and whether the tensor lies the other way round.
_NAMES: dict[str, tuple[tuple[str, bool], ...]] = {
    "encoder": (("W_enc", False), ("encoder.weight", True)),
    "encoder_bias": (("b_enc", False), ("encoder.bias", False)),
    "vectors": (("W_dec", False), ("decoder.weight", True)),
    "bias": (("b_dec", False), ("decoder.bias", False), ("bias", False), ("pre_bias", False)),
}


def load_autoencoder(
    path: str | Path, *, nonlinearity: Nonlinearity | None, k: int | None, centred: bool
) -> Autoencoder:
    """Read an autoencoder; see `ConceptBank.from_sae`.

    Raises:
        InputError: if a piece is missing, the shapes do not fit each other, or the nonlinearity lacks its number.
    """
    path = require_file(path, "autoencoder file")
    try:
        held = load_file(path)
    except SafetensorError as error:
        raise InputError(f"{path} is not a safetensors file: {error}.") from error
    pieces = {piece: _piece(held, piece) for piece in _NAMES}
    missing = [" or ".join(name for name, _ in _NAMES[piece]) for piece, tensor in pieces.items() if tensor is None]
    if missing:
        raise InputError(
            f"{path} is no autoencoder that can be read: it lacks {', '.join(missing)}; it holds {', '.join(held)}."
        )
    found = {piece: tensor.float() for piece, tensor in pieces.items() if tensor is not None}
    width, count = found["encoder"].shape
    expected = {"encoder": (width, count), "encoder_bias": (count,), "vectors": (count, width), "bias": (width,)}
    wrong = [
        f"{piece} {list(found[piece].shape)} for {list(shape)}"
        for piece, shape in expected.items()
        if found[piece].shape != shape
    ]
    if wrong:
        raise InputError(f"The autoencoder at {path} does not fit together: {'; '.join(wrong)}.")
    threshold = held.get("threshold")
    if nonlinearity is None:
        nonlinearity = "jumprelu" if threshold is not None else "relu" if k is None else "topk"
    if nonlinearity not in get_args(Nonlinearity):
        raise InputError(
            f"nonlinearity={nonlinearity!r} must be one of {', '.join(map(repr, get_args(Nonlinearity)))}."
        )
    if nonlinearity == "topk" and not (k is not None and 1 <= k <= count):
        raise InputError(f"nonlinearity='topk' needs k in 1..{count}, found k={k}.")
    if nonlinearity == "jumprelu" and threshold is None:
        raise InputError(
            f"nonlinearity='jumprelu' needs a tensor 'threshold', which {path} lacks; it holds {', '.join(held)}."
        )
    return Autoencoder(
        found["vectors"],
        found["encoder"],
        found["encoder_bias"],
        found["bias"],
        centred,
        nonlinearity,
        k or 0,
        None if threshold is None else threshold.float(),
    )


def _piece(held: dict[str, torch.Tensor], piece: str) -> torch.Tensor | None:
    for name, turned in _NAMES[piece]:
        if name in held:
            return held[name].T.contiguous() if turned else held[name]
    return None
