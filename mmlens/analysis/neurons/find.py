"""Multi-modal neurons: the hidden neurons of the language model that write a word into the caption.

Score of neuron i of layer l for token t, at the position that predicts t (the residual stream is a sum, so this is
what the neuron adds to the token's logit, up to the final norm):

    s[l, i] = q[l, i] * (W_out[l, i] . W_U[:, t])

Source: Pan, Cao, Wang, Yang, Wang, "Finding and Editing Multi-Modal Neurons in Pre-Trained Transformers", Findings of
ACL 2024 (https://arxiv.org/abs/2311.07470), section on neuron contribution.
Departs: q is the exact multiplier of the row, the input of the down projection (`activation="down_in"`). The published
code took the activation function's output (`activation="act"`), which leaves out the gate's partner in gated MLPs and
can have the wrong sign.
"""

from typing import Literal

import torch

from mmlens.analysis.neurons.points import POINTS, Activation
from mmlens.analysis.neurons.scores import NeuronScores
from mmlens.core.errors import InputError
from mmlens.models.batch import MultimodalBatch
from mmlens.models.hooked import HookedMultimodal


@torch.no_grad()
def find_neurons(
    model: HookedMultimodal,
    batch: MultimodalBatch,
    *,
    token: str | int,
    method: Literal["contribution"] = "contribution",
    activation: Activation = "down_in",
) -> NeuronScores:
    """Score every neuron of the language model by what it adds to a token's logit at the last position.

    Args:
        model: the hooked model.
        batch: whose last position predicts the token; `model.extend(batch, tokens)` puts generated tokens first. Scores
            of several samples are averaged.
        token: a word that is one token, or an id.
        method: `"contribution"`, the formula in this module's docstring.
        activation: `"down_in"` (exact, default) or `"act"` (as in the published code).

    Returns:
        Scores for all neurons, with `.top(k)`, `.words()`, `.heatmap()`, `.mask()`.

    Raises:
        InputError: if the word is not a single token, or the family has no activation module to read for `"act"`.
    """
    if method != "contribution":
        raise InputError(f"method={method!r} is unknown; 'contribution' is the one there is.")
    if activation not in POINTS:
        raise InputError(f"activation={activation!r} must be one of {', '.join(map(repr, POINTS))}.")
    token = model.to_single_token(token) if isinstance(token, str) else int(token)
    point = f"blocks.*.{POINTS[activation]}"
    _, cache = model.run_with_cache(batch, names=point, positions="last")
    direction = model.W_U[:, token]
    scores = [
        # one column of W_out W_U: [neuron]; the whole product would be [neuron vocab] per layer
        cache[f"blocks.{layer}.{POINTS[activation]}"][:, 0].float().mean(0) * (block.mlp.W_out @ direction).float()
        for layer, block in enumerate(model.blocks)
    ]
    return NeuronScores(
        torch.stack(scores).cpu(), token, model.to_string(token).strip(), method, activation, model, batch
    )
