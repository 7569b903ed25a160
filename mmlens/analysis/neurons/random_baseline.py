"""The control for every finding about neurons: as many others, at random."""

from collections.abc import Sequence

import torch

from mmlens.core.errors import InputError
from mmlens.core.units import Neuron
from mmlens.models.hooked import HookedMultimodal


def random_neurons(model: HookedMultimodal, *, like: Sequence[Neuron], seed: int) -> list[Neuron]:
    """As many random neurons from the same layers, none of them among `like`: the control for every finding.

    Args:
        model: the hooked model.
        like: the neurons to match, layer by layer.
        seed: of the draw.

    Raises:
        InputError: if a layer has too few other neurons.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn: list[Neuron] = []
    for part, layer in sorted({(neuron.part, neuron.layer) for neuron in like}):
        taken = {neuron.index for neuron in like if (neuron.part, neuron.layer) == (part, layer)}
        width = model.graph[Neuron(layer, 0, part).hook].width or 0
        free = [i for i in torch.randperm(width, generator=generator).tolist() if i not in taken]
        if len(free) < len(taken):
            raise InputError(
                f"Layer {layer} of {part} has {len(free)} other neurons, fewer than the {len(taken)} to match."
            )
        drawn += [Neuron(layer, i, part) for i in free[: len(taken)]]
    return drawn
