"""How likely a caption is with neurons set to other values: many sets of neurons in one packed sweep."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float

from mmlens.analysis.properties.noun_occurrences import NounOccurrence
from mmlens.core.axes import unit_axis
from mmlens.core.unit_sets import Units
from mmlens.execution import Cell, Change, CleanRun
from mmlens.execution.cell_runs import hooked

#: Logits that are held at a time, as numbers; more sets of neurons than fit are run in several goes.
_HELD = 2**26
#: By how many nats a token has to be the likeliest for a generation to choose it whatever its rounding.
_CLEAR = 1e-3


@dataclass(frozen=True)
class Likelihood:
    """How likely a model finds the tokens of a caption, each where it was predicted.

    Attributes:
        log_p: log-probabilities, in nats.
        log_odds: `log(p / (1 - p))`, in nats; it still moves where p is close to 1.
        again: whether the model would write the same caption again, as far as its logits tell.
    """

    log_p: Float[torch.Tensor, "step"]
    log_odds: Float[torch.Tensor, "step"]
    again: bool = False


class CaptionRun:
    """A caption that was said, as the model reads it: run once, and served to every set of neurons from there.

    Args:
        occurrence: a noun that was said, with its caption.
        max_new_tokens: upper bound on the tokens of a caption that is written anew.
    """

    def __init__(self, occurrence: NounOccurrence, max_new_tokens: int = 0):
        self.occurrence = occurrence
        self.max_new_tokens = max_new_tokens
        tokens = occurrence.caption_tokens
        # hooks of others may mean other positions where a caption is written than where it is read
        self._tells = occurrence.likeliest and not hooked(occurrence.model)
        self._run = CleanRun(occurrence.model, occurrence.whole, n_rows=len(tokens) + 1)
        self.before = self._likelihood(self._run.clean_logits[0])

    def with_neurons(
        self, sets: Sequence[Units], values: Float[torch.Tensor, "layer neuron"] | None = None
    ) -> Iterator[Likelihood]:
        """How likely the caption is with each set of neurons at other values, at every position.

        Args:
            sets: the neurons.
            values: of every neuron; 0 by default.
        """
        n_together = max(1, _HELD // self._run.clean_logits[0].numel())
        for start in range(0, len(sets), n_together):
            cells = [Cell(0, tuple(self._changes(units, values))) for units in sets[start : start + n_together]]
            yield from map(self._likelihood, self._run.logits(cells, progress=False))

    def _changes(self, units: Units, values: Float[torch.Tensor, "layer neuron"] | None) -> Iterator[Change]:
        for name, here in units.by_point().items():
            indices = [unit.index for unit in here]
            new = torch.zeros(len(here)) if values is None else values[[unit.layer for unit in here], indices]
            axes = self.occurrence.model.graph[name].axes
            yield Change(name, None, _setter(unit_axis(axes) - len(axes.split()), torch.tensor(indices), new))

    def _likelihood(self, logits: Float[torch.Tensor, "row vocab"]) -> Likelihood:
        """From the logits that predict each token of the caption, and what comes behind it."""
        logits, tokens = logits.float().cpu(), self.occurrence.caption_tokens
        rows = logits[:-1]
        target = rows.gather(1, tokens[:, None])[:, 0]
        others = rows.scatter(1, tokens[:, None], float("-inf")).logsumexp(-1)
        again = self._tells and bool(_is_chosen(rows, tokens).all()) and self._ends(logits[-1])
        return Likelihood(target - rows.logsumexp(-1), target - others, again)

    def _ends(self, logits: Float[torch.Tensor, "vocab"]) -> bool:
        """Whether a caption that is written anew would end behind these tokens."""
        count, stops = len(self.occurrence.caption_tokens), sorted(self.occurrence.model.stop_tokens)
        if count >= self.max_new_tokens:
            return count == self.max_new_tokens
        return any(bool(_is_chosen(logits[None], torch.tensor([stop]))) for stop in stops)


def _is_chosen(logits: Float[torch.Tensor, "row vocab"], tokens: torch.Tensor) -> Bool[torch.Tensor, "row"]:
    """Whether each token is clearly the likeliest of its row."""
    others = logits.scatter(1, tokens[:, None], float("-inf")).amax(-1)
    return logits.gather(1, tokens[:, None])[:, 0] > others + _CLEAR


def _setter(axis: int, indices: torch.Tensor, new: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    def put(activation: torch.Tensor) -> torch.Tensor:
        shape = list(activation.shape)
        shape[axis] = len(indices)
        column = new.to(activation).reshape(-1, *[1] * (-axis - 1)).expand(shape)
        return activation.index_copy(axis, indices.to(activation.device), column)

    return put


@torch.no_grad()
def caption_likelihood(occurrence: NounOccurrence) -> Likelihood:
    """How likely the tokens of an occurrence's caption are as the model is now."""
    tokens = occurrence.caption_tokens
    logits = occurrence.model(occurrence.whole)[0, -len(tokens) - 1 : -1].float().cpu()
    target = logits.gather(1, tokens[:, None])[:, 0]
    others = logits.scatter(1, tokens[:, None], float("-inf")).logsumexp(-1)
    return Likelihood(target - logits.logsumexp(-1), target - others)
