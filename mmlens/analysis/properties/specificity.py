"""Specificity: whether the neurons of one word are that word's own, or every word's.

`specific_neurons` weighs each neuron's score for a word by how much less it scores for other words, to choose rows that can
be edited without moving the others.
"""

from typing import Literal

import torch
from jaxtyping import Float

from mmlens.analysis.neurons.scores import NeuronScores
from mmlens.core.contract import checked
from mmlens.core.errors import InputError
from mmlens.core.kinds import Count, NonNegative, Several
from mmlens.core.unit_sets import Units


@checked
def specificity(
    scores: NeuronScores, others: Several[NeuronScores], *, over: Literal["max", "mean"] = "max"
) -> Float[torch.Tensor, "layer neuron"]:
    """How much of what each neuron does for a word or other words is done for the word alone, 0 to 1.

        specificity[l, i] = c[l, i] / (c[l, i] + c_others[l, i]),    c = max(score, 0)

    Args:
        scores: the word's scores, where the word is about to be said.
        others: scores of other words, each found where that word is about to be said.
        over: `"max"`: against the other word that the neuron serves most; `"mean"`: against the average other word.

    Returns:
        1 for neurons that only serve the word, 0.5 for those that serve another just as much, 0 for those that do not
        serve it.

    Raises:
        InputError: if there are no others, or scores of different shapes.
    """
    wrong = sorted({str(list(other.scores.shape)) for other in others if other.scores.shape != scores.scores.shape})
    if wrong:
        raise InputError(
            f"The word's scores are {list(scores.scores.shape)} [layer neuron], others have {', '.join(wrong)}; they must come "
            "from one model."
        )
    target = scores.scores.clamp(min=0)
    against = torch.stack([other.scores.clamp(min=0) for other in others])
    rest = against.amax(0) if over == "max" else against.mean(0)
    return torch.where(target > 0, target / (target + rest).clamp(min=torch.finfo(target.dtype).tiny), 0.0)


@checked
def specific_neurons(
    scores: NeuronScores,
    others: Several[NeuronScores],
    *,
    k: Count = 20,
    sharpness: NonNegative = 1.0,
    over: Literal["max", "mean"] = "max",
) -> Units:
    """The k neurons that are strong for a word and weak for others: the highest `score * specificity ** sharpness`.

    Args:
        scores: the word's scores.
        others: scores of other words, each where that word is about to be said.
        k: how many.
        sharpness: 0 gives the plain top k; larger values prefer neurons of the word's own.
        over: as for `specificity`.

    Raises:
        InputError: for a k outside 1..number of neurons, a negative sharpness, or what `specificity` refuses.

    Example:
        >>> from mmlens import find_neurons
        >>> circle, square = (find_neurons(model, batch, token=word) for word in ("circle", "square"))
        >>> len(specific_neurons(circle, [square], k=5))
        5

    Source: the two factors are those of Pan et al., "Finding and Editing Multi-Modal Neurons in Pre-Trained Transformers",
    Findings of ACL 2024 (https://arxiv.org/abs/2311.07470).
    *Departs:* the paper reports contribution and specificity side by side; their product is our way to choose.
    """
    if not 1 <= k <= scores.scores.numel():
        raise InputError(f"k={k} must lie in 1..{scores.scores.numel()}, the number of neurons.")
    products = scores.scores * specificity(scores, others, over=over) ** sharpness
    return Units(map(scores.neuron, products.flatten().topk(k).indices.tolist()))
