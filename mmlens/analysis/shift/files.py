"""Concept shifts as files: tensors and a few words about them in one safetensors file."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from mmlens.analysis.shift.result import ConceptShift, MostActive
from mmlens.core.errors import InputError
from mmlens.core.files import require_file, whole_file

_FORMAT = "mmlens.ConceptShift/1"
_TUPLES = ("fate", "appeared", "source")


def save_shift(shift: ConceptShift, path: str | Path) -> None:
    """See `ConceptShift.save`."""
    held = {each.name: getattr(shift, each.name) for each in fields(shift)}
    tensors = {name: value.contiguous() for name, value in held.items() if isinstance(value, torch.Tensor)}
    about = {name: json.dumps(value) for name, value in held.items() if name not in tensors}
    with whole_file(path) as temporary:
        save_file(tensors, temporary, metadata={"format": _FORMAT, **about})


def load_shift(path: str | Path) -> ConceptShift:
    """See `ConceptShift.load`."""
    path = require_file(path, "concept shift")
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except SafetensorError as error:
        raise InputError(f"{path} is not a safetensors file: {error}.") from error
    if about.get("format") != _FORMAT:
        raise InputError(f"{path} is no concept shift (format {about.get('format')!r}, expected {_FORMAT!r}).")
    plain: dict[str, Any] = {name: json.loads(value) for name, value in about.items() if name != "format"}
    plain |= {name: tuple(plain[name]) for name in _TUPLES}
    if plain["most_active"] is not None:
        plain["most_active"] = MostActive(*(tuple(map(tuple, each)) for each in plain["most_active"]))
    return ConceptShift(**tensors, **plain)
