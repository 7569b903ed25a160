"""The methods that estimate patching sweeps, one file each: `mm.patching`. A file that is put here is found."""

from mmlens.analysis.attribution.method import ATTRIBUTION_METHODS as ATTRIBUTION_METHODS
from mmlens.analysis.attribution.method import AttributionChoice as AttributionChoice
from mmlens.analysis.attribution.method import AttributionMethod as AttributionMethod

ATTRIBUTION_METHODS.discover(__name__, list(__path__))

__all__ = ["ATTRIBUTION_METHODS", "AttributionMethod", *(method.__name__ for method in ATTRIBUTION_METHODS)]  # noqa: PLE0604


def __getattr__(name: str) -> type[AttributionMethod]:
    return ATTRIBUTION_METHODS.by_class_name(name)
