"""Sparse autoencoders from outside: their weights under the names that trainers give them, used as their configuration says.

Read are SAELens's files (`cfg.json`, of any version), sparsify's (`cfg.json`), Gemma Scope's (`config.json`), and bare tensors.
What would need other arithmetic is refused by name: gated encoders, transcoders, states that are normed one by one.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from mmlens.analysis.concepts.coders import Autoencoder, Nonlinearity
from mmlens.core.errors import InputError
from mmlens.core.files import require_file

#: Per piece, the names it goes by, and whether the tensor lies the other way round.
_NAMES: dict[str, tuple[tuple[str, bool], ...]] = {
    "encoder": (("W_enc", False), ("w_enc", False), ("encoder.weight", True)),
    "encoder_bias": (("b_enc", False), ("encoder.bias", False)),
    "vectors": (("W_dec", False), ("w_dec", False), ("decoder.weight", True)),
    "bias": (("b_dec", False), ("decoder.bias", False), ("bias", False), ("pre_bias", False)),
    "threshold": (("threshold", False),),
}
_WEIGHTS = ("sae_weights.safetensors", "sae.safetensors", "params.safetensors")
_CONFIGURATIONS = ("cfg.json", "config.json")
#: The nonlinearity of each architecture as SAELens saves it; those that choose over a batch are saved with thresholds.
_ARCHITECTURES: dict[str, Nonlinearity] = {
    "standard": "relu",
    "relu": "relu",
    "topk": "topk",
    "jumprelu": "jumprelu",
    "jump_relu": "jumprelu",
    "batchtopk": "jumprelu",
    "matryoshka_batchtopk": "jumprelu",
}


@dataclass(frozen=True)
class _Settings:
    """How an autoencoder's numbers come about; None where nothing says."""

    nonlinearity: Nonlinearity | None = None
    k: int | None = None
    centred: bool | None = None
    by_decoder_norm: bool = False
    at: str | None = None


def load_autoencoder(
    path: str | Path, *, at: str, nonlinearity: Nonlinearity | None, k: int | None, centred: bool | None
) -> Autoencoder:
    """Read an autoencoder; see `ConceptBank.from_sae`.

    Raises:
        InputError: if a piece is missing, the shapes do not fit each other, the configuration asks for what is not done here or
            says otherwise than the arguments, or nothing says how the autoencoder is used.
    """
    weights, configuration = _files(Path(path))
    settings = _Settings() if configuration is None else _settings(configuration)
    if settings.at is not None and settings.at != at:
        raise InputError(f"{configuration} says that the autoencoder was trained at {settings.at}, not at {at}.")
    for name, argument in (("nonlinearity", nonlinearity), ("k", k), ("centred", centred)):
        if argument is not None and getattr(settings, name) not in (None, argument):
            raise InputError(
                f"{name}={argument!r}, and {configuration} says {getattr(settings, name)!r}; leave it out."
            )
    pieces = _pieces(weights)
    count = len(pieces["vectors"])
    threshold = pieces.get("threshold")
    k = settings.k if k is None else k
    kind = nonlinearity or settings.nonlinearity
    if kind is None:
        kind = "jumprelu" if threshold is not None else "relu" if k is None else "topk"
    if kind not in get_args(Nonlinearity):
        raise InputError(f"nonlinearity={kind!r} must be one of {', '.join(map(repr, get_args(Nonlinearity)))}.")
    if kind == "topk" and not (k is not None and 1 <= k <= count):
        raise InputError(f"nonlinearity='topk' needs k in 1..{count}, found k={k}.")
    if (kind == "jumprelu") != (threshold is not None):
        has = "lacks" if threshold is None else "has"
        raise InputError(
            f"nonlinearity={kind!r}, and {weights} {has} a tensor 'threshold', which jumprelu alone needs."
        )
    centred = settings.centred if centred is None else centred
    if centred is None:
        raise InputError(
            f"No {' or '.join(_CONFIGURATIONS)} beside {weights} says whether b_dec is taken off before encoding: give "
            "centred=True (the default of SAELens and sparsify) or centred=False (Gemma Scope)."
        )
    if settings.by_decoder_norm:
        # codes are chosen by what they add; with the lengths in the encoder the vectors are of length one
        lengths = pieces["vectors"].norm(dim=1)
        pieces["encoder"], pieces["encoder_bias"] = pieces["encoder"] * lengths, pieces["encoder_bias"] * lengths
        pieces["vectors"] = pieces["vectors"] / lengths[:, None]
    return Autoencoder(
        pieces["vectors"],
        pieces["encoder"],
        pieces["encoder_bias"],
        pieces["bias"],
        centred,
        kind,
        k or 0,
        threshold,
    )


def _files(path: Path) -> tuple[Path, Path | None]:
    """The weights, and the configuration beside them."""
    if path.is_dir():
        files = [path / name for name in _WEIGHTS if (path / name).is_file()] or sorted(path.glob("*.safetensors"))
        if len(files) != 1:
            raise InputError(
                f"{path} holds {len(files)} safetensors files ({', '.join(file.name for file in files)}); name the autoencoder's."
            )
        path = files[0]
    weights = require_file(path, "autoencoder file")
    return weights, next((weights.parent / n for n in _CONFIGURATIONS if (weights.parent / n).is_file()), None)


def _settings(where: Path) -> _Settings:
    """What a configuration says, in the words of SAELens, sparsify or Gemma Scope."""
    try:
        about = json.loads(where.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{where} is not a JSON file: {error}.") from error
    metadata = about.get("metadata") or {}
    at = metadata.get("hook_name") or about.get("hook_name") or about.get("hook_point")
    at = at if at is not None and ".hook_" in at else None  # Hugging Face's names are other names of the same places
    if "num_latents" in about or "expansion_factor" in about:  # sparsify
        _refuse(where, about, transcode=(False,), skip_connection=(False,), activation=("topk",))
        return _Settings("topk", about.get("k"), True, at=at)
    if "hf_hook_point_in" in about:  # Gemma Scope 2
        _refuse(where, about, hf_hook_point_out=(about["hf_hook_point_in"],), affine_connection=(False,))
        return _Settings(_architecture(about, where), None, False)
    if "d_sae" not in about:
        raise InputError(f"{where} is the configuration of no trainer that is known here; it says {', '.join(about)}.")
    options = about.get("activation_fn_kwargs") or {}
    _refuse(
        where,
        about,
        normalize_activations=("none",),
        reshape_activations=("none",),
        finetuning_scaling_factor=(False,),
    )
    function = about.get("activation_fn_str") or about.get("activation_fn")
    nonlinearity = "topk" if function == "topk" else _architecture(about, where)
    is_rescaled = bool(about.get("rescale_acts_by_decoder_norm", False))
    if is_rescaled and nonlinearity != "topk":
        raise InputError(
            f"{where}: rescale_acts_by_decoder_norm has no meaning for {about.get('architecture')!r} here."
        )
    return _Settings(
        nonlinearity, about.get("k", options.get("k")), about.get("apply_b_dec_to_input", True), is_rescaled, at
    )


def _architecture(about: Mapping[str, Any], where: Path) -> Nonlinearity:
    name = about.get("architecture", "standard")
    if name not in _ARCHITECTURES:
        raise InputError(
            f"{where}: architecture={name!r} is not among those that can be used: {', '.join(map(repr, _ARCHITECTURES))}."
        )
    return _ARCHITECTURES[name]


def _refuse(where: Path, about: Mapping[str, Any], **possible: tuple[object, ...]) -> None:
    """Refuse settings that ask for arithmetic that is not done here; None and absence ask for nothing."""
    wrong = [
        f"{name}={about[name]!r} (possible here: {', '.join(map(repr, values))})"
        for name, values in possible.items()
        if about.get(name) is not None and about[name] not in values
    ]
    if wrong:
        raise InputError(
            f"{where} asks for {'; '.join(wrong)}. Codes of a bank must give a state back without that state: fold the "
            "setting into the weights, or take an autoencoder that was trained without."
        )


def _pieces(path: Path) -> dict[str, torch.Tensor]:
    """The tensors by piece, in float32.

    Raises:
        InputError: if one is missing, unknown, or does not fit.
    """
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise InputError(f"{path} is not a safetensors file: {error}.") from error
    pieces: dict[str, torch.Tensor] = {}
    for piece, names in _NAMES.items():
        for name, transpose in names:
            if piece not in pieces and name in tensors:
                tensor = tensors.pop(name).float()
                pieces[piece] = tensor.T.contiguous() if transpose else tensor
    missing = [
        " or ".join(name for name, _ in names)
        for piece, names in _NAMES.items()
        if piece not in pieces and piece != "threshold"
    ]
    if missing or tensors:
        problems = [f"lacks {', '.join(missing)}"] * bool(missing) + [f"holds {', '.join(tensors)} too"] * bool(tensors)
        raise InputError(f"{path} is no autoencoder that can be used: it {', and '.join(problems)}.")
    if pieces["encoder"].ndim != 2:
        raise InputError(f"The encoder at {path} must be [d_model concept], found {list(pieces['encoder'].shape)}.")
    width, count = pieces["encoder"].shape
    expected = {"encoder_bias": (count,), "vectors": (count, width), "bias": (width,), "threshold": (count,)}
    wrong = [
        f"{piece} {list(pieces[piece].shape)} for {list(shape)}"
        for piece, shape in expected.items()
        if piece in pieces and pieces[piece].shape != shape
    ]
    if wrong:
        raise InputError(f"The autoencoder at {path} does not fit together: {'; '.join(wrong)}.")
    return pieces
