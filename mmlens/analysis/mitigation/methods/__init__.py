"""The methods against hallucination, one file each: `mm.mitigation_report(methods=...)`. A file that is put here is found."""

from mmlens.analysis.mitigation.method import MITIGATION_METHODS as MITIGATION_METHODS
from mmlens.analysis.mitigation.method import MitigationMethod as MitigationMethod

MITIGATION_METHODS.discover(__name__, list(__path__))

__all__ = ["MITIGATION_METHODS", "MitigationMethod", *(method.__name__ for method in MITIGATION_METHODS)]  # noqa: PLE0604


def __getattr__(name: str) -> type[MitigationMethod]:
    return MITIGATION_METHODS.by_class_name(name)
