"""Scorers of texts against pictures and other texts, and how answers and captions are compared."""

from mmlens.analysis.properties.scorers import BertScore, ClipScore, MoverScore, RegressionScore, Scorer
from mmlens.core.answer_text import normalised, says

__all__ = [
    "BertScore",
    "ClipScore",
    "MoverScore",
    "RegressionScore",
    "Scorer",
    "normalised",
    "says",
]
