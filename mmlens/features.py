"""Sparse features: dictionaries that others trained, and their features as units."""

from mmlens.analysis.features.dictionary import SparseDictionary
from mmlens.analysis.features.loading import load_sae
from mmlens.analysis.features.saving import save_sae

__all__ = [
    "SparseDictionary",
    "load_sae",
    "save_sae",
]
