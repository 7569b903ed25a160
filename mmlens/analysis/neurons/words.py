"""Neurons read as words."""

import torch
from jaxtyping import Float

from mmlens.core.contract import checked
from mmlens.core.errors import InputError
from mmlens.core.kinds import Count
from mmlens.core.unit_sets import Units, UnitsLike
from mmlens.core.units import Neuron
from mmlens.models.hooked import WritingModel
from mmlens.models.weight_rows import written_rows


@checked
@torch.no_grad()
def neuron_words(model: WritingModel, neurons: UnitsLike, *, k: Count = 5) -> list[list[str]]:
    """The k words that each neuron's row of `W_out` raises most (a logit lens of the row, without the final norm).

    Args:
        model: the hooked model.
        neurons: language-model neurons or their names; repeated ones count once.
        k: words per neuron.

    Returns:
        One list of words per neuron, best first.

    Raises:
        InputError: for neurons outside the language model's blocks, or that it does not have.

    Example:
        >>> len(neuron_words(model, ["L5.u7", "L5.u8"], k=3)[1])
        3
    """
    units = Units.of(neurons, model, kind=Neuron, verb="neuron_words", empty=True)
    if not 1 <= k <= model.W_U.shape[1]:
        raise InputError(f"k={k} words must lie in 1..{model.W_U.shape[1]}, the size of the vocabulary.")
    if not units:
        return []
    best = row_logits(model, units).topk(k, dim=-1).indices
    return [[model.to_string(token).strip() for token in row] for row in best]


@torch.no_grad()
def row_logits(model: WritingModel, neurons: Units) -> Float[torch.Tensor, "row vocab"]:
    """What each neuron's row adds to every token's logit per unit of its activation, without the final norm.

    Raises:
        InputError: for neurons that do not write into the stream that words are read from.
    """
    others = [str(unit) for unit in neurons if (unit.part, unit.stack) != ("language", "blocks")]
    if others:
        raise InputError(
            f"{', '.join(others[:5])} do not write into the language model's stream, so their rows are not words."
        )
    return written_rows(model, neurons).to(model.W_U.device) @ model.W_U
