"""Multi-modal neurons: finding them, reading them, and the methods that score them."""

from mmlens.analysis.controls.unit_means import mean_activation
from mmlens.analysis.heatmap import HeatMap
from mmlens.analysis.neurons.captions import CaptionNeurons, find_caption_neurons
from mmlens.analysis.neurons.find import find_neurons
from mmlens.analysis.neurons.methods import *  # noqa: F403
from mmlens.analysis.neurons.methods import NEURON_METHODS
from mmlens.analysis.neurons.methods import __all__ as _methods
from mmlens.analysis.neurons.sample_top import SampleTop
from mmlens.analysis.neurons.scores import NeuronScores
from mmlens.analysis.neurons.words import neuron_words
from mmlens.analysis.nouns.caption_nouns import CaptionWord, caption_nouns
from mmlens.analysis.properties.specificity import specific_neurons
from mmlens.core.unit_sets import Units
from mmlens.core.units import Head, Neuron, Unit

__all__ = [  # noqa: PLE0604
    "caption_nouns",
    "CaptionNeurons",
    "CaptionWord",
    "find_caption_neurons",
    "find_neurons",
    "Head",
    "HeatMap",
    "mean_activation",
    "Neuron",
    "neuron_words",
    "NeuronScores",
    "SampleTop",
    "specific_neurons",
    "Unit",
    "Units",
    *_methods,
]

__getattr__ = NEURON_METHODS.by_class_name  # methods that were registered since
