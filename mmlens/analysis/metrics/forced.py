"""Words of several tokens, teacher forced: which tokens stand behind the prompt, and what is read at which of them.

    log p(word) = sum over t of log p(w_t | prompt, w_1 ... w_{t-1})

One run has one row of tokens behind its prompt: a word without its last token, behind which everything that predicts the word
is read. Of two words that are compared, what they share cancels (and is not read); where they part, the two logits are read in
one run, which is all if one of them ends there. Only if both go on, each needs a run of its own, and the difference is the sum
of what is read in the two.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int

#: The token ids of a word.
Word = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class ForcedTerms:
    """What is read in one run of a sum of log-probabilities of words: logits with weights, and how often the normaliser.

    Attributes:
        behind: the tokens behind the prompt, `[batch step]`; samples of shorter words have some more, which nothing reads.
        ids, weights: the logits that count, with their weights, by the last rows of the run and the word.
        norms: how often `logsumexp` of all logits of a row is taken off; it cancels where two words part.
    """

    behind: Int[torch.Tensor, "batch step"]
    ids: Int[torch.Tensor, "batch row word"]
    weights: Float[torch.Tensor, "batch row word"]
    norms: Float[torch.Tensor, "batch row"]

    @property
    def n_rows(self) -> int:
        """How many of the last rows are read."""
        return self.norms.shape[1]

    @cached_property
    def reads(self) -> tuple[int, ...] | None:
        """The token ids whose logits are read; None for the whole vocabulary."""
        return None if self.norms.any() else tuple(self.ids[self.weights != 0].unique().tolist())


@dataclass(frozen=True, eq=False)
class ForcedLogits:
    """The logits that predict words in a run, and what is to be read of them.

    Attributes:
        terms: what is read.
        logits: of the whole vocabulary, or of the tokens that are read alone.
    """

    terms: ForcedTerms
    logits: Float[torch.Tensor, "batch row vocab"]

    @property
    def total(self) -> Float[torch.Tensor, "batch"]:
        """The log-probabilities of the words with their signs, as far as this run has them, in nats."""
        weights, norms = self.terms.weights.to(self.logits), self.terms.norms.to(self.logits)
        total = (self._picked * weights).sum((1, 2))
        return total - (norms * self.logits.logsumexp(-1)).sum(1) if self.terms.reads is None else total

    @property
    def worst_rank(self) -> Float[torch.Tensor, "batch"]:
        """How many tokens are more probable than the word's own, where it is most; 0 if greedy decoding writes the word."""
        above = (self.logits > self._picked[..., :1]).sum(-1)
        return (above * self.terms.weights[..., 0].to(above)).amax(1).to(self.logits.dtype)

    @property
    def _picked(self) -> torch.Tensor:
        ids = self.terms.ids
        if self.terms.reads is not None:  # tokens that do not count may not be there
            ids = torch.searchsorted(torch.tensor(self.terms.reads), ids.contiguous()).clamp(
                max=len(self.terms.reads) - 1
            )
        return self.logits.gather(-1, ids.to(self.logits.device))


def forced_terms(words: Sequence[Sequence[Word]], signs: Sequence[float]) -> list[ForcedTerms]:
    """The runs that a signed sum of log-probabilities of words takes, and what is read in each.

    Args:
        words: per word of the metric, its token ids in each sample.
        signs: of each word.
    """
    by_sample = list(zip(*words, strict=True))
    together = [max((word[:-1] for word in sample), key=len) for sample in by_sample]
    is_one = all(
        word[:-1] == row[: len(word) - 1] for sample, row in zip(by_sample, together, strict=True) for word in sample
    )
    branches = [together] if is_one else [[word[:-1] for word in slot] for slot in words]
    return [_branch(branch, branches[:number], by_sample, signs) for number, branch in enumerate(branches)]


def _branch(
    rows: Sequence[Word], earlier: Sequence[Sequence[Word]], samples: Sequence[Sequence[Word]], signs: Sequence[float]
) -> ForcedTerms:
    """What is read behind one row of tokens per sample, and not yet behind earlier ones."""
    longest = max(map(len, rows))
    ids = torch.zeros(len(rows), longest + 1, len(signs), dtype=torch.long)
    weights = torch.zeros(ids.shape)
    for sample, (row, words) in enumerate(zip(rows, samples, strict=True)):
        for step in range(len(row) + 1):
            is_known = any(step <= len(other[sample]) and other[sample][:step] == row[:step] for other in earlier)
            here = [(slot, word) for slot, word in enumerate(words) if len(word) > step and word[:step] == row[:step]]
            if is_known or (len(here) > 1 and len({word[step] for _, word in here}) == 1 and sum(signs) == 0):
                continue  # what both words share cancels
            for slot, word in here:
                ids[sample, step, slot], weights[sample, step, slot] = word[step], signs[slot]
    first = int(weights.any(-1).any(0).nonzero()[0])
    filler = [(*row, *[words[0][-1]] * (longest - len(row))) for row, words in zip(rows, samples, strict=True)]
    behind = torch.tensor(filler, dtype=torch.long).reshape(len(rows), longest)
    return ForcedTerms(behind, ids[:, first:], weights[:, first:], weights[:, first:].sum(-1))
