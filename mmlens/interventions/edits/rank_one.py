"""A rank-one change of one layer's whole output matrix, in the manner of ROME: the edit to compare others with."""

from collections.abc import Sequence

import torch
from jaxtyping import Float

from mmlens.core.contract import checked
from mmlens.core.gradients import require_autograd
from mmlens.core.kinds import Count, Index
from mmlens.core.unit_sets import Units
from mmlens.core.units import Neuron
from mmlens.inputs.batch import BatchesLike, MultimodalBatch
from mmlens.interventions.edits.edit import Edit
from mmlens.interventions.edits.examples import EditExample, activity_at, as_batches, as_word, edit_examples
from mmlens.interventions.edits.method import WordTask
from mmlens.interventions.edits.methods.through import Through, optimise
from mmlens.interventions.edits.words import NEEDED_FOR, edit_of
from mmlens.models.hooked import HookedMultimodal, WritingModel

#: The value vector counts as one row of unit activation, so that it may move faster than rows do.
_SETTINGS = Through(learning_rate=0.5)


@checked
def rank_one(
    model: WritingModel,
    batches: BatchesLike,
    *,
    source: str | int,
    target: str | int,
    layer: Index,
    samples: BatchesLike,
    controls: BatchesLike = (),
    settings: Through = _SETTINGS,
    ridge: float = 1e-2,
    max_new_tokens: Count = 30,
    progress: bool = True,
) -> Edit:
    """One layer's `W_out` changed by a matrix of rank one, so that the key of the source brings forth the target.

        delta_i = a_i * v,    a = C^-1 k / (k . C^-1 k),    C = E[q q^T] + ridge * mean(diag) * I

    q is the input of the down projection, k its mean where the source is said, C its second moment over other text, and v is
    optimised through the real network like the rows of `replace_token`. A target of n tokens takes a key and a value for each of
    them, where it is wanted behind those before it: the matrix has rank n, `a = C^-1 K (K^T C^-1 K)^-1`.

    Args:
        model: the hooked model.
        batches: prompts whose answers hold the source.
        source, target: words, or ids of tokens.
        layer: of the language model.
        samples: batches over whose tokens C is taken: what the layer sees otherwise.
        controls: prompts whose answers should stay as they are.
        settings: of the optimisation of v.
        ridge: added to the diagonal of C, as a share of its mean.
        max_new_tokens: length of the model's answers.
        progress: show a progress bar.

    Returns:
        An edit of all rows of the layer; nothing is applied.

    Raises:
        InputError: as `replace_token`; if there is no such layer, or no samples.

    Source: Meng et al., "Locating and Editing Factual Associations in GPT", NeurIPS 2022 (https://arxiv.org/abs/2202.05262),
    equation 2. *Departs:* the key is taken where the source is about to be said, not at the last token of a subject, which a
    picture does not have; v is found with the change in place at all positions, not by overwriting one activation.
    """
    require_autograd("An edit that is optimised through the network")
    old, new = as_word(model, source), as_word(model, target)
    width = model.graph.unit_counts.get(Neuron(layer, 0).hook, 1)  # a layer without neurons is refused as its first one
    rows = Units.of((Neuron(layer, index) for index in range(width)), model, verb="rank_one")
    others = as_batches(
        samples, "samples", needed_for="to see which keys the layer meets otherwise: batches of other prompts"
    )
    prompts = as_batches(batches, "batches", needed_for=NEEDED_FOR)
    examples = edit_examples(model, prompts, source=old, target=new, max_new_tokens=max_new_tokens)
    stay = edit_examples(
        model, as_batches(controls, "controls"), source=None, target=None, max_new_tokens=max_new_tokens
    )
    keys = _keys(model, examples, rows)
    moment = _second_moment(model, others, rows)
    moment += ridge * moment.diagonal().mean() * torch.eye(width, dtype=torch.float64)
    against = torch.linalg.solve(moment, keys)
    amounts = (against @ torch.linalg.pinv(keys.T @ against)).float().to(model.device)
    task = WordTask(model, rows, examples, stay, old, new)
    result = optimise(
        task,
        settings,
        start=torch.zeros(keys.shape[1], model.W_U.shape[0]),
        deltas_of=lambda values: amounts @ values,
        progress=progress,
    )
    return edit_of(task, result, "rank_one", {**settings.settings, "layer": layer, "ridge": ridge})


def _keys(model: HookedMultimodal, examples: Sequence[EditExample], rows: Units) -> Float[torch.Tensor, "neuron token"]:
    """The mean input of the down projection where each of the target's tokens is wanted, in float64."""
    inputs = torch.cat([activity_at(model, e.batch, e.source_places, rows) for e in examples]).double()
    steps = torch.cat([example.steps for example in examples])
    return torch.stack([inputs[steps == step].mean(0) for step in range(int(steps.max()) + 1)], dim=1)


def _second_moment(
    model: HookedMultimodal, batches: Sequence[MultimodalBatch], rows: Units
) -> Float[torch.Tensor, "neuron neuron"]:
    """Mean of `q q^T` over all tokens of batches, padding left out, in float64."""
    total = torch.zeros(len(rows), len(rows), dtype=torch.float64)
    count = 0
    for batch in batches:
        places = _tokens(model, batch)
        keys = activity_at(model, batch, places, rows).double()
        total += keys.T @ keys
        count += len(keys)
    return total / count


def _tokens(model: HookedMultimodal, batch: MultimodalBatch) -> torch.Tensor:
    """`(sample, position)` of the tokens that the language model reads: its decoder's in an encoder-decoder model."""
    decoder = batch.inputs.get("decoder_input_ids")
    return (batch.layout.is_token if decoder is None else torch.ones_like(decoder)).nonzero().cpu()
