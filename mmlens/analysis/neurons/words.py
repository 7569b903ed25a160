"""Neurons read as words."""

from collections.abc import Sequence

import torch

from mmlens.core.errors import InputError
from mmlens.core.places import Neuron
from mmlens.models.hooked import HookedMultimodal


@torch.no_grad()
def neuron_words(model: HookedMultimodal, neurons: Sequence[Neuron], *, k: int = 5) -> list[list[str]]:
    """The k words that each neuron's row of `W_out` raises most (a logit lens of the row, without the final norm).

    Args:
        model: the hooked model.
        neurons: language-model neurons.
        k: words per neuron.

    Returns:
        One list of words per neuron, best first.
    """
    others = [str(neuron) for neuron in neurons if neuron.part != "language"]
    if others:
        raise InputError(
            f"{', '.join(others[:5])} do not write into the language model's stream, so their rows are not words."
        )
    rows = torch.stack([model.blocks[neuron.layer].mlp.W_out[neuron.index] for neuron in neurons])
    best = (rows @ model.W_U).topk(k, dim=-1).indices
    return [[model.to_string(token).strip() for token in row] for row in best]
