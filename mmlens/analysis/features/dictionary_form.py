"""What tensors and settings a sparse dictionary is made of, and that they fit each other."""

from collections.abc import Mapping
from typing import Literal, TypeAlias, get_args

import torch

from mmlens.core.errors import InputError

#: How codes come from what the encoder returns: relu(p); the k largest of p, then relu; relu(p) where p > threshold; relu(p)
#: where a gate of the same products is open; the largest of each of k groups of relu(p).
Activation: TypeAlias = Literal["relu", "topk", "jumprelu", "gated", "groupmax"]
#: What is done to each state before encoding, and undone after decoding.
Normalization: TypeAlias = Literal["none", "constant_norm_rescale", "layer_norm"]


def require_shapes(tensors: Mapping[str, torch.Tensor], transcodes: bool) -> None:
    """Refuse tensors that do not fit each other, or hold no numbers."""
    W_enc, W_dec = tensors["W_enc"], tensors["W_dec"]
    if W_enc.ndim != 2 or W_dec.ndim != 2:
        raise InputError(
            f"W_enc must be [d_in feature] and W_dec [feature d_out], found {list(W_enc.shape)} and {list(W_dec.shape)}."
        )
    (d_in, count), d_out = W_enc.shape, W_dec.shape[1]
    expected: dict[str, tuple[int, ...]] = {"W_dec": (count, d_out), "b_dec": (d_out,), "W_skip": (d_out, d_in)}
    expected |= dict.fromkeys(("b_enc", "threshold", "b_gate", "r_mag"), (count,))
    wrong = [
        f"{name} {list(tensor.shape)} for {list(shape)}"
        for name, shape in expected.items()
        if (tensor := tensors.get(name)) is not None and tensor.shape != shape
    ]
    if wrong:
        raise InputError(f"The dictionary does not fit together (W_enc {[d_in, count]}): {'; '.join(wrong)}.")
    if not transcodes and d_in != d_out:
        raise InputError(
            f"An autoencoder gives back what it reads, and this one reads d={d_in} and writes d={d_out}: a transcoder, which "
            "says what it reads: at_in=..."
        )
    if "W_skip" in tensors and not transcodes:
        raise InputError("W_skip goes past the features of a transcoder, which says what it reads: at_in=...")


def require_settings(
    activation: Activation, normalization: Normalization, k: int | None, tensors: Mapping[str, torch.Tensor]
) -> None:
    """Refuse settings that contradict the tensors."""
    if activation not in get_args(Activation) or normalization not in get_args(Normalization):
        raise InputError(
            f"activation={activation!r} must be one of {', '.join(map(repr, get_args(Activation)))}, and "
            f"normalization={normalization!r} one of {', '.join(map(repr, get_args(Normalization)))}."
        )
    count = len(tensors["W_dec"])
    chooses = activation in ("topk", "groupmax")
    if chooses and not (k is not None and 1 <= k <= count):
        raise InputError(f"activation={activation!r} needs k in 1..{count}, found k={k}.")
    if k is not None and not chooses:
        raise InputError(f"k={k} has no meaning for activation={activation!r}; leave it out.")
    if activation == "groupmax" and k is not None and count % k:
        raise InputError(f"activation='groupmax' needs groups of equal size, and {count} features are no {k} groups.")
    for name, owner in (("threshold", "jumprelu"), ("b_gate", "gated"), ("r_mag", "gated")):
        if (name in tensors) != (activation == owner):
            has = "lacks" if activation == owner else "has"
            raise InputError(f"activation={activation!r} {has} a tensor {name!r}, which {owner!r} alone needs.")
