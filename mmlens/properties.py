"""Properties of neurons that a report states, each beside its control."""

from mmlens.analysis.properties.causal import causal_effect
from mmlens.analysis.properties.cross_modality import cross_modality
from mmlens.analysis.properties.exclusivity import noun_exclusivity
from mmlens.analysis.properties.invariance import image_invariance, region_invariance
from mmlens.analysis.properties.localisation import localisation
from mmlens.analysis.properties.measurements import Measurements
from mmlens.analysis.properties.quantities import Value
from mmlens.analysis.properties.report import neuron_report
from mmlens.analysis.properties.sensitivity import sensitivity
from mmlens.analysis.properties.specificity import specific_neurons

__all__ = [  # noqa: RUF022
    "causal_effect",
    "cross_modality",
    "image_invariance",
    "localisation",
    "Measurements",
    "neuron_report",
    "noun_exclusivity",
    "region_invariance",
    "sensitivity",
    "specific_neurons",
    "Value",
]
