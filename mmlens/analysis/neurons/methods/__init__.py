"""The methods that score neurons, one file each: `mm.neurons`. A file that is put here is found."""

from mmlens.analysis.neurons.method import NEURON_METHODS as NEURON_METHODS
from mmlens.analysis.neurons.method import NeuronChoice as NeuronChoice
from mmlens.analysis.neurons.method import NeuronMethod as NeuronMethod

NEURON_METHODS.discover(__name__, list(__path__))

__all__ = ["NEURON_METHODS", "NeuronMethod", *(method.__name__ for method in NEURON_METHODS)]  # noqa: PLE0604


def __getattr__(name: str) -> type[NeuronMethod]:
    return NEURON_METHODS.by_class_name(name)
