"""The published studies, each by one command: `reproduce("pan" | "parekh" | "khayatan", into=folder)`."""

from mmlens.analysis.study_table import StudyTable, StudyValue
from mmlens.recipes.khayatan.settings import KhayatanSettings
from mmlens.recipes.pan_settings import PanSettings
from mmlens.recipes.parekh import ParekhSettings
from mmlens.recipes.reproduce import Reproduction, reproduce

__all__ = ["KhayatanSettings", "PanSettings", "ParekhSettings", "reproduce", "Reproduction", "StudyValue", "StudyTable"]  # noqa: RUF022


def __dir__() -> list[str]:
    """What is public: the studies' own files are not."""
    return sorted(__all__)
