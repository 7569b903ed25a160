"""Neurons read as words."""

from collections.abc import Sequence

import torch

from mmlens.core.errors import InputError
from mmlens.core.units import Neuron
from mmlens.models.hooked import HookedMultimodal
from mmlens.models.weight_rows import written_rows


@torch.no_grad()
def neuron_words(model: HookedMultimodal, neurons: Sequence[Neuron], *, k: int = 5) -> list[list[str]]:
    """The k words that each neuron's row of `W_out` raises most (a logit lens of the row, without the final norm).

    Args:
        model: the hooked model.
        neurons: language-model neurons.
        k: words per neuron.

    Returns:
        One list of words per neuron, best first.

    Raises:
        InputError: for neurons outside the language model's blocks, or that it does not have.
    """
    others = [str(neuron) for neuron in neurons if (neuron.part, neuron.stack) != ("language", "blocks")]
    if others:
        raise InputError(
            f"{', '.join(others[:5])} do not write into the language model's stream, so their rows are not words."
        )
    missing = [
        str(neuron)
        for neuron in neurons
        if neuron.hook not in model.graph or not 0 <= neuron.index < (model.graph[neuron.hook].width or 0)
    ]
    if missing:
        raise InputError(f"The model has no {', '.join(missing[:5])}, so there are no rows to read.")
    if not neurons:
        return []
    if not 1 <= k <= model.W_U.shape[1]:
        raise InputError(f"k={k} words must lie in 1..{model.W_U.shape[1]}, the size of the vocabulary.")
    unembedding = model.W_U
    rows = written_rows(model, neurons).to(unembedding.device)
    best = (rows @ unembedding).topk(k, dim=-1).indices
    return [[model.to_string(token).strip() for token in row] for row in best]
