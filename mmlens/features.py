"""Sparse features: dictionaries, their training, their features as units, and what they do for a word."""

from mmlens.analysis.attribution_graphs.build import attribution_graph
from mmlens.analysis.attribution_graphs.check_result import GraphCheck
from mmlens.analysis.attribution_graphs.graph import AttributionGraph
from mmlens.analysis.attribution_graphs.influence import GraphScores
from mmlens.analysis.attribution_graphs.nodes import GraphNode
from mmlens.analysis.features.card import DictionaryCard, sae_card
from mmlens.analysis.features.dictionary import SparseDictionary
from mmlens.analysis.features.find import find_features
from mmlens.analysis.features.loading import load_sae
from mmlens.analysis.features.monosemanticity import monosemanticity
from mmlens.analysis.features.page import page
from mmlens.analysis.features.page_result import ClampedAnswers, FeaturePage, TextContext, TopPicture
from mmlens.analysis.features.row_quality import RowQuality
from mmlens.analysis.features.saving import save_sae
from mmlens.analysis.features.scores import FeatureScores
from mmlens.analysis.features.training.mlp_inputs import mlp_inputs
from mmlens.analysis.features.training.result import SAETraining, TrainingPoint
from mmlens.analysis.features.training.train import train_sae
from mmlens.analysis.features.words import feature_words
from mmlens.core.units import Feature

__all__ = [
    "AttributionGraph",
    "ClampedAnswers",
    "DictionaryCard",
    "Feature",
    "FeaturePage",
    "FeatureScores",
    "GraphCheck",
    "GraphNode",
    "GraphScores",
    "RowQuality",
    "SAETraining",
    "SparseDictionary",
    "TextContext",
    "TopPicture",
    "TrainingPoint",
    "attribution_graph",
    "feature_words",
    "find_features",
    "load_sae",
    "mlp_inputs",
    "monosemanticity",
    "page",
    "sae_card",
    "save_sae",
    "train_sae",
]
