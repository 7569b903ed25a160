"""The logits that an attribution graph explains."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int

from mmlens.analysis.attribution_graphs.linear import HEAD, LinearRun
from mmlens.analysis.neurons.token_targets import tokens_of, word_targets
from mmlens.core.errors import InputError
from mmlens.inputs.batch import MultimodalBatch
from mmlens.models.hooked import HookedMultimodal

#: Logits that are targets where none are named: so many at most, and no more than make up this probability.
_MOST, _ENOUGH = 10, 0.95


@dataclass(frozen=True)
class Targets:
    """The logits that a graph explains.

    Attributes:
        batch: what is run: tokens of a word stand in it up to the last but one.
        rows: where each is predicted.
        tokens: their ids; empty until the run says which.
    """

    batch: MultimodalBatch
    rows: Int[torch.Tensor, "logit"]
    tokens: tuple[int, ...]

    def of_run(
        self, run: LinearRun
    ) -> tuple[list[tuple[int, int]], Float[torch.Tensor, "logit"], Float[torch.Tensor, "logit"]]:
        """Row and token of each, their probabilities, and what each counts in the graph: these add up to 1."""
        probabilities = run.logits.reshape(-1, run.logits.shape[-1]).float().softmax(-1).cpu()
        if self.tokens:
            pairs = list(zip(self.rows.tolist(), self.tokens, strict=True))
            best_values = torch.stack([probabilities[row, token] for row, token in pairs])
            return pairs, best_values, torch.full((len(pairs),), 1 / len(pairs))
        row = int(self.rows[0])
        best = probabilities[row].topk(min(_MOST, probabilities.shape[1]))
        count = int((best.values.cumsum(0) < _ENOUGH).sum()) + 1
        best_values = best.values[:count]
        return [(row, token) for token in best.indices[:count].tolist()], best_values, best_values / best_values.sum()


def logit_targets(
    model: HookedMultimodal, batch: MultimodalBatch, target: str | int | Sequence[str | int] | None
) -> Targets:
    """The logits that are asked for, before anything runs.

    Raises:
        InputError: for several samples, unknown words, or words of several tokens beside others.
    """
    if batch.size != 1:
        raise InputError(
            f"An attribution graph is of one sample, and the batch has {batch.size}: prepare the sample alone, "
            "model.prepare(text, images=picture)."
        )
    words = [] if target is None else [target] if isinstance(target, str | int) else list(target)
    tokens = [tokens_of(model, word) for word in words]
    if len(set(tokens)) < len(tokens):
        raise InputError(f"target={target!r} names a token twice, so that it would count double; name it once.")
    word_list = word_targets(model, batch, tokens or [(0,)])
    if len(word_list) != 1:
        longer = [str(word) for word, ids in zip(words, tokens, strict=True) if len(ids) > 1]
        raise InputError(
            f"{', '.join(longer)} are several tokens, which have to be written one by one: draw a graph of one such word alone."
        )
    return Targets(
        word_list[0].batch,
        word_list[0].rows(model.plain_graph[HEAD]),
        tuple(word_list[0].token.tolist()) if words else (),
    )
