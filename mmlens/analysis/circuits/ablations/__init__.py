"""What stands in the place of what circuits leave out, one file each: `mm.circuits`. A file that is put here is found."""

from mmlens.analysis.circuits.ablation import ABLATIONS as ABLATIONS
from mmlens.analysis.circuits.ablation import Ablation as Ablation

ABLATIONS.discover(__name__, list(__path__))

__all__ = ["ABLATIONS", "Ablation", *(ablation.__name__ for ablation in ABLATIONS)]  # noqa: PLE0604


def __getattr__(name: str) -> type[Ablation]:
    return ABLATIONS.by_class_name(name)
