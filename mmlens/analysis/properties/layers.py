"""In which layers the neurons of nouns lie."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mmlens.analysis.properties.cases import NounNeurons
from mmlens.analysis.properties.quantities import Quantity, Value, is_control


@dataclass(frozen=True)
class LayerShares:
    """The share of each noun's neurons that lies in each layer.

    Attributes:
        layers: number of layers.
    """

    layers: int

    @property
    def quantities(self) -> Sequence[Quantity]:
        """One per layer."""
        return [Quantity(f"in layer {layer}", "share of neurons", better="") for layer in range(self.layers)]

    def over_all(self, nouns: Sequence[NounNeurons]) -> Iterator[Value]:
        """Count the neurons of every noun by layer; random neurons are not counted, their layers are given."""
        for noun in nouns:
            for method, neurons in noun.neurons.items():
                if not is_control(method):
                    counts = Counter(unit.layer for unit in neurons)
                    for layer in range(self.layers):
                        share = counts[layer] / len(neurons)
                        yield Value(f"in layer {layer}", method, len(neurons), share, noun.sample, noun.noun)
