"""The errors of mmlens: each says what was asked, what was found, what would be right, and what to do."""


class MMLensError(Exception):
    """Base of every error that mmlens raises on purpose."""


class InputError(MMLensError, ValueError):
    """Something the caller passed cannot be used. Raised before any forward pass."""


class ArgumentError(InputError, TypeError):
    """Arguments that are missing, unknown or of a wrong kind: all of one call at once, before any work."""


class DamagedFileError(InputError):
    """A file that does not match its checksums: damaged, cut off, or written by something else."""


class UnknownNameError(InputError, KeyError):
    """A hook name, glob or shorthand that matches nothing. The message lists the nearest names."""

    __str__ = Exception.__str__  # KeyError would print the repr, with its newlines escaped


class NoPlaceError(InputError):
    """Rows that stand for no part of the picture were asked for their place in it."""


class UnsupportedModelError(InputError):
    """A checkpoint or model class that no declared family covers."""


class VerificationError(MMLensError):
    """`verify` found a hook point that does not fire, does not move the logits, or breaks parity."""
