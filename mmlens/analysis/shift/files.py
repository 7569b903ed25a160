"""Concept shifts as files: tensors and a few words about them in one safetensors file."""

from dataclasses import fields
from pathlib import Path

import torch

from mmlens.analysis.shift.result import ConceptShift, MostActive
from mmlens.core.results import read_tensors, write_tensors

_FORMAT = "mmlens.ConceptShift/1"
_TUPLES = ("fate", "appeared", "source")


def save_shift(shift: ConceptShift, path: str | Path) -> None:
    """See `ConceptShift.save`."""
    held = {each.name: getattr(shift, each.name) for each in fields(shift)}
    tensors = {name: value for name, value in held.items() if isinstance(value, torch.Tensor)}
    write_tensors(path, tensors, format=_FORMAT, about={name: held[name] for name in held if name not in tensors})


def load_shift(path: str | Path) -> ConceptShift:
    """See `ConceptShift.load`."""
    tensors, plain = read_tensors(path, format=_FORMAT, what="concept shift")
    plain |= {name: tuple(plain[name]) for name in _TUPLES}
    if plain["most_active"] is not None:
        plain["most_active"] = MostActive(*(tuple(map(tuple, each)) for each in plain["most_active"]))
    return ConceptShift(**(plain | tensors))
