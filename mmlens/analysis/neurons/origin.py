"""The model that scores of neurons belong to, by its class and weights."""

from pathlib import Path

from mmlens.architectures.loading import base_of
from mmlens.core.errors import InputError
from mmlens.models.fingerprint import fingerprint
from mmlens.models.hooked import HookedMultimodal


def origin_of(model: HookedMultimodal) -> tuple[str, str]:
    """Class and fingerprint of a model."""
    return type(base_of(model.hf_model)).__name__, fingerprint(model)


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
