"""Sparse features: dictionaries that others trained, their features as units, and what they do for a word."""

from mmlens.analysis.features.card import DictionaryCard, RowQuality, sae_card
from mmlens.analysis.features.dictionary import SparseDictionary
from mmlens.analysis.features.find import find_features
from mmlens.analysis.features.loading import load_sae
from mmlens.analysis.features.saving import save_sae
from mmlens.analysis.features.scores import FeatureScores
from mmlens.analysis.features.words import feature_words
from mmlens.core.units import Feature

__all__ = [
    "DictionaryCard",
    "Feature",
    "FeatureScores",
    "RowQuality",
    "SparseDictionary",
    "feature_words",
    "find_features",
    "load_sae",
    "sae_card",
    "save_sae",
]
