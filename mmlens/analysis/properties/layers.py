"""In which layers the neurons of nouns lie."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mmlens.analysis.properties.cases import Chosen
from mmlens.analysis.properties.measured import CONTROL, Quantity, Value


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

    def over_all(self, chosen: Sequence[Chosen]) -> Iterator[Value]:
        """Count the neurons of every noun by layer; random neurons are not counted, their layers are given."""
        for each in chosen:
            controls = {CONTROL.format(method=method) for method in each.neurons}
            for method, neurons in each.neurons.items():
                if method not in controls:
                    counts = Counter(layer for layer, _ in neurons)
                    for layer in range(self.layers):
                        share = counts[layer] / len(neurons)
                        yield Value(f"in layer {layer}", method, len(neurons), share, each.sample, each.noun)
