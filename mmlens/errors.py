"""The errors of mmlens."""

from mmlens.core.errors import (
    ArgumentError,
    DamagedFileError,
    InputError,
    MMLensError,
    NoPlaceError,
    UnknownNameError,
    UnsupportedModelError,
    VerificationError,
)
from mmlens.core.identity import UnknownIdentityError

__all__ = [
    "ArgumentError",
    "DamagedFileError",
    "InputError",
    "MMLensError",
    "NoPlaceError",
    "UnknownIdentityError",
    "UnknownNameError",
    "UnsupportedModelError",
    "VerificationError",
]
