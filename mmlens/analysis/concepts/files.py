"""Concept banks as files: tensors and a few words about them in one safetensors file."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from mmlens.analysis.concepts.bank import ConceptBank
from mmlens.analysis.concepts.coders import Autoencoder, Centred, Nearest, NonNegative
from mmlens.core.results import read_tensors, write_tensors

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
        "coder": {"class": type(bank.coder).__name__, "settings": settings},
        **{name: getattr(bank, name) for name in _PLAIN},
    }
    write_tensors(path, tensors, format=_FORMAT, about=about)


def load_bank(path: str | Path) -> ConceptBank:
    """See `ConceptBank.load`."""
    tensors, about = read_tensors(path, format=_FORMAT, what="concept bank")
    made = about.pop("coder")
    own = {name.removeprefix("coder."): tensor for name, tensor in tensors.items() if name.startswith("coder.")}
    coder = _CODERS[made["class"]](**own, **made["settings"])
    listed: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in about.items()}
    return ConceptBank(coder, tensors["codes"], tensors["activation"], **listed)
