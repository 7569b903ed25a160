"""Scorers of texts against pictures and other texts."""

from mmlens.analysis.properties.scorers import BertScore, ClipScore, MoverScore, RegressionScore, Scorer

__all__ = [
    "BertScore",
    "ClipScore",
    "MoverScore",
    "RegressionScore",
    "Scorer",
]
