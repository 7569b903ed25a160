"""The methods that rank heads, one file each: `mm.rank_heads(method=...)`. A file that is put here is found."""

from mmlens.analysis.heads.method import HEAD_METHODS as HEAD_METHODS
from mmlens.analysis.heads.method import HeadMethod as HeadMethod
from mmlens.analysis.heads.method import HeadMethodChoice as HeadMethodChoice

HEAD_METHODS.discover(__name__, list(__path__))

__all__ = ["HEAD_METHODS", "HeadMethod", *(method.__name__ for method in HEAD_METHODS)]  # noqa: PLE0604


def __getattr__(name: str) -> type[HeadMethod]:
    return HEAD_METHODS.by_class_name(name)
