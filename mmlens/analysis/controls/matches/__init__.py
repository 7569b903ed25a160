"""What random units can be matched by, one file each: `mm.controls`. A file that is put here is found."""

from mmlens.analysis.controls.match import MATCHES as MATCHES
from mmlens.analysis.controls.match import Match as Match

MATCHES.discover(__name__, list(__path__))

__all__ = ["MATCHES", "Match", *(match.__name__ for match in MATCHES)]  # noqa: PLE0604


def __getattr__(name: str) -> type[Match]:
    return MATCHES.by_class_name(name)
