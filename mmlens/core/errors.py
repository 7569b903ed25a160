"""The errors of mmlens: each says what was asked, what was found, what would be right, and what to do.

Below the message a traceback names the page about errors of its kind (from Python 3.11 on, which prints notes).
"""

from typing import ClassVar

_PAGES = "https://github.com/mmlens/mmlens/blob/main/docs/errors/"
#: The page by the module that raised, the first that fits; that of an error's class goes before it.
_OF_MODULES = {
    "core.names core.registry core.results hooks.graph": "names",
    "core.units core.unit_sets interventions.head_choice analysis.patching.units": "units",
    "models.verify": "verification",
    "core.rule core.positions core.sequence_rows inputs.positions inputs.picture_pos inputs.point_rows inputs.words": "positions",
    "core.files core.checkpoint core.identity core.view analysis.store": "files",
    "inputs interventions.corruptions interventions.pairs analysis.samples analysis.readers": "inputs",
    "architectures discover declarations": "checkpoints",
    "hooks models execution": "models",
    "interventions": "interventions",
    "": "analysis",
}


class MMLensError(Exception):
    """Base of every error that mmlens raises on purpose."""

    page: ClassVar[str] = ""

    @property
    def guide(self) -> str:
        """Where errors of this kind are explained."""
        return f"{_PAGES}{self.page or self._page_of_module()}.md"

    @property
    def __notes__(self) -> list[str]:
        notes: list[str] = self.__dict__.setdefault("notes", [])
        if not notes:
            notes.append(f"More: {self.guide}")
        return notes

    @__notes__.setter
    def __notes__(self, notes: list[str]) -> None:
        self.__dict__["notes"] = notes

    def _page_of_module(self) -> str:
        module, trace = "", self.__traceback__
        while trace is not None:
            module, trace = trace.tb_frame.f_globals.get("__name__", ""), trace.tb_next
        inside = module.removeprefix("mmlens.")
        return next(page for names, page in _OF_MODULES.items() if not names or inside.startswith(tuple(names.split())))


class InputError(MMLensError, ValueError):
    """Something the caller passed cannot be used. Raised before any forward pass."""


class ArgumentError(InputError, TypeError):
    """Arguments that are missing, unknown or of a wrong kind: all of one call at once, before any work."""

    page = "arguments"


class DamagedFileError(InputError):
    """A file that does not match its checksums: damaged, cut off, or written by something else."""

    page = "files"


class UnknownNameError(InputError, KeyError):
    """A hook name, glob or shorthand that matches nothing. The message lists the nearest names."""

    page = "names"

    __str__ = Exception.__str__  # KeyError would print the repr, with its newlines escaped


class NoPlaceError(InputError):
    """Rows that stand for no part of the picture were asked for their place in it."""

    page = "no_place"


class UnsupportedModelError(InputError):
    """A checkpoint or model class that no declared family covers."""

    page = "checkpoints"


class VerificationError(MMLensError):
    """`verify` found a hook point that does not fire, does not move the logits, or breaks parity."""

    page = "verification"
