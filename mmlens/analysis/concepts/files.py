"""Concept banks as files: tensors and a few words about them in one safetensors file."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from mmlens.analysis.concepts.bank import ConceptBank
from mmlens.analysis.concepts.coders import Autoencoder, Centred, Nearest, NonNegative
from mmlens.core.errors import InputError
from mmlens.core.files import require_file, whole_file

_FORMAT = "mmlens.ConceptBank/1"
_CODERS: dict[str, Any] = {coder.__name__: coder for coder in (NonNegative, Nearest, Centred, Autoencoder)}
_PLAIN = ("at", "method", "reconstruction_error", "keys", "tokens", "captions", "source", "objective")


def save_bank(bank: ConceptBank, path: str | Path) -> None:
    """See `ConceptBank.save`."""
    parts: dict[str, Any] = {each.name: getattr(bank.coder, each.name) for each in fields(bank.coder)}  # type: ignore[arg-type]
    tensors = {f"coder.{name}": value for name, value in parts.items() if isinstance(value, torch.Tensor)}
    settings = {name: value for name, value in parts.items() if not isinstance(value, torch.Tensor)}
    tensors |= {"codes": bank.codes, "activation": bank.activation}
    about = {
        "format": _FORMAT,
        "coder": json.dumps({"class": type(bank.coder).__name__, "settings": settings}),
        **{name: json.dumps(getattr(bank, name)) for name in _PLAIN},
    }
    # codes and activation are often one tensor, which safetensors wants told apart
    separate = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    with whole_file(path) as temporary:
        save_file(separate, temporary, metadata=about)


def load_bank(path: str | Path) -> ConceptBank:
    """See `ConceptBank.load`."""
    path = require_file(path, "concept bank")
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except SafetensorError as error:
        raise InputError(f"{path} is not a safetensors file: {error}.") from error
    if about.get("format") != _FORMAT:
        raise InputError(f"{path} is no concept bank (format {about.get('format')!r}, expected {_FORMAT!r}).")
    made = json.loads(about["coder"])
    own = {name.removeprefix("coder."): tensor for name, tensor in tensors.items() if name.startswith("coder.")}
    coder = _CODERS[made["class"]](**own, **made["settings"])
    plain = {name: json.loads(about[name]) for name in _PLAIN}
    listed: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in plain.items()}
    return ConceptBank(coder, tensors["codes"], tensors["activation"], **listed)
