"""The errors of mmlens."""

from mmlens.core.errors import (
    ArgumentError,
    InputError,
    MMLensError,
    NoPlaceError,
    UnknownNameError,
    UnsupportedModelError,
    VerificationError,
)

__all__ = [
    "ArgumentError",
    "InputError",
    "MMLensError",
    "NoPlaceError",
    "UnknownNameError",
    "UnsupportedModelError",
    "VerificationError",
]
