"""Scores in files: tensors and what they are, in one safetensors file, with the model that they belong to."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mmlens.architectures.loading import base_of
from mmlens.core.errors import InputError
from mmlens.core.results import TensorKind
from mmlens.models.fingerprint import fingerprint
from mmlens.models.hooked import HookedMultimodal

_FILE = TensorKind(
    "mmlens.neurons.NeuronScores", 3, "file of neuron scores", {"about": dict[str, Any], "origin": list[str] | None}
)


def origin_of(model: HookedMultimodal) -> tuple[str, str]:
    """Class and fingerprint of a model."""
    return type(base_of(model.hf_model)).__name__, fingerprint(model)


def write(
    path: str | Path,
    tensors: Mapping[str, torch.Tensor],
    about: Mapping[str, Any],
    origin: tuple[str, str] | None,
) -> None:
    """Write a file, whole or not at all.

    Args:
        path: file to write; the folder must exist.
        tensors: by name.
        about: what they are, as JSON.
        origin: of the model.
    """
    _FILE.write(path, tensors, {"about": about, "origin": origin})


def read_scores(path: str | Path) -> tuple[dict[str, torch.Tensor], dict[str, Any], tuple[str, str] | None]:
    """Read a file that `write` wrote: tensors, what they are, and the model's origin.

    Raises:
        InputError: if there is no file, or it is no file of scores.
    """
    tensors, content = _FILE.read(path)
    origin = content["origin"]
    return tensors, content["about"], None if origin is None else (origin[0], origin[1])


def require_same(path: str | Path, origin: tuple[str, str] | None, model: HookedMultimodal) -> None:
    """Check that a model is the one that scores were found on.

    Raises:
        InputError: if it is of another class, or has other weights.
    """
    own_origin = origin_of(model)
    if origin is not None and own_origin != origin:
        difference = "other weights" if own_origin[0] == origin[0] else "another class"
        raise InputError(
            f"The scores in {path} belong to a {origin[0]} with fingerprint {origin[1]}; the model "
            f"given is a {own_origin[0]} with "
            f"{own_origin[1]}: {difference}. Load the model that they were found on, or read them without one."
        )
