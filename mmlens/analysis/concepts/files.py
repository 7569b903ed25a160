"""Concept banks as files: tensors and a few words about them in one safetensors file."""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from mmlens.analysis.concepts.coders import Centred, Coder, Nearest, NonNegative
from mmlens.analysis.features.dictionary import SparseDictionary
from mmlens.core.results import TensorKind

_FILE = TensorKind(
    "mmlens.concepts.ConceptBank",
    2,
    "concept bank",
    {
        "coder": dict[str, Any],
        "at": str,
        "method": str,
        "reconstruction_error": float,
        "keys": list[str],
        "tokens": list[str],
        "captions": list[str],
        "source": str,
        "objective": list[float],
        "settings": dict[str, Any],
    },
)
_CODERS: dict[str, Any] = {coder.__name__: coder for coder in (NonNegative, Nearest, Centred, SparseDictionary)}


def write_bank(path: str | Path, coder: Coder, values: Mapping[str, Any]) -> None:
    """Write a coder and the other fields of its bank; see `ConceptBank.save`."""
    settable = [entry.name for entry in fields(coder) if entry.init]  # type: ignore[arg-type]
    parts: dict[str, Any] = {name: getattr(coder, name) for name in settable}
    tensors = {f"coder.{name}": value for name, value in parts.items() if isinstance(value, torch.Tensor)}
    settings = {name: value for name, value in parts.items() if not isinstance(value, torch.Tensor)}
    tensors |= {name: value for name, value in values.items() if isinstance(value, torch.Tensor)}
    about = {name: value for name, value in values.items() if not isinstance(value, torch.Tensor)}
    about |= {"coder": {"class": type(coder).__name__, "settings": settings}}
    _FILE.write(path, tensors, about)


def read_bank(path: str | Path) -> tuple[Coder, dict[str, Any]]:
    """The coder and the other fields of a bank that `write_bank` wrote; see `ConceptBank.load`."""
    tensors, about = _FILE.read(path)
    coder = about.pop("coder")
    parts = {name.removeprefix("coder."): tensor for name, tensor in tensors.items() if name.startswith("coder.")}
    values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in about.items()}
    values |= {name: tensor for name, tensor in tensors.items() if not name.startswith("coder.")}
    return _CODERS[coder["class"]](**parts, **coder["settings"]), values
