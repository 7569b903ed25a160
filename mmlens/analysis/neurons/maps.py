"""Where in a picture neurons are active."""

from collections.abc import Sequence

import torch

from mmlens.analysis.heatmap import HeatMap, map_of_rows
from mmlens.analysis.neurons.points import POINTS, Activation
from mmlens.core.errors import InputError
from mmlens.core.places import Neuron
from mmlens.models.batch import MultimodalBatch
from mmlens.models.hooked import HookedMultimodal


@torch.no_grad()
def activation_map(
    model: HookedMultimodal,
    batch: MultimodalBatch,
    neurons: Sequence[Neuron],
    *,
    activation: Activation = "down_in",
    sample: int = 0,
    image: int = 0,
    title: str = "",
) -> HeatMap:
    """The mean activation of some neurons at each picture position, as a map over the picture.

    Args:
        model: the hooked model.
        batch: what to run on.
        neurons: language-model neurons.
        activation: as for `find_neurons`.
        sample, image: which picture.
        title: kept in the map.

    Raises:
        NoPlaceError: if the language model's image tokens have no place (Q-Formers).
        InputError: if there are no neurons.
    """
    if not neurons:
        raise InputError("No neurons were given to map.")
    batch.layout.grid(sample=sample, image=image)  # refuses rows without a place before anything runs
    names = {neuron: f"blocks.{neuron.layer}.{POINTS[activation]}" for neuron in neurons}
    _, cache = model.run_with_cache(batch, names=sorted(set(names.values())))
    values = torch.stack([cache[name][sample, :, neuron.index].float() for neuron, name in names.items()]).mean(0)
    return map_of_rows(batch.layout, values, sample=sample, image=image, title=title)
