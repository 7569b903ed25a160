"""Attention knock-out: some positions are kept from looking at others.

Source: Geva et al., "Dissecting Recall of Factual Associations in Auto-Regressive Language Models", EMNLP 2023
(https://arxiv.org/abs/2304.14767), section 5.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool

from mmlens.core.errors import InputError
from mmlens.core.names import Part, require_part
from mmlens.hooks.graph import Node
from mmlens.hooks.session import HookFunction, HookPair
from mmlens.interventions.reach import marked, per_entry
from mmlens.interventions.sample_rows import RowRule, sequence_length
from mmlens.interventions.timing import GROWING, Passes, refuse_known_positions, run_of
from mmlens.models.batch import MultimodalBatch
from mmlens.models.hooked import HookedMultimodal
from mmlens.models.run import Run


@dataclass(frozen=True)
class KnockOut:
    """Cut attention from some positions to others: their scores become minus infinity, and the rest shares the pattern.

    Args:
        queries: the positions that look: a rule, or one list of rows per sample.
        keys: the positions that they may no longer look at.
        layers: block numbers; None for all.
        heads: head numbers; None for all.
        part: the tower; its self-attention is meant.
        generated: cut the new tokens of a generation from the keys too.

    Positions are those of the prompt of whatever batch runs.

    Example:
        >>> with model.intervene(KnockOut("last", "image", layers=range(0, 3))):
        ...     logits = model(batch)
    """

    queries: RowRule
    keys: RowRule
    layers: Sequence[int] | None = field(default=None, kw_only=True)
    heads: Sequence[int] | None = field(default=None, kw_only=True)
    part: Part = field(default="language", kw_only=True)
    generated: bool = field(default=False, kw_only=True)

    def hooks(self, model: HookedMultimodal) -> list[HookPair]:
        """One hook per block.

        Raises:
            InputError: if blocks or heads do not exist.
        """
        nodes = score_points(model, self.part, self.layers)
        require_batch_axis(nodes[0])
        heads = head_mask(model, self.part, self.heads)
        return [(node.name, self._cutter(model, node, heads)) for node in nodes]

    def starts(self, run: Run) -> None:
        """Find the pairs to cut in the batch that is about to run.

        Raises:
            InputError: if no query sees any of the keys anyway, or a query would be left with no key at all.
        """
        self._cut(run, score_points(run.model, self.part, self.layers)[0])

    def _cut(self, run: Run, node: Node) -> Bool[torch.Tensor, "batch query key"]:
        """The pairs of the prompt's positions that are cut."""
        if node.sequence in GROWING:
            refuse_known_positions(run)
        return run.remember((id(self), node.part), lambda: cut_pairs(run.batch, node, self.queries, self.keys))

    def _cutter(self, model: HookedMultimodal, node: Node, heads: torch.Tensor | None) -> HookFunction:
        key = object()

        def fill(scores: torch.Tensor, hook: Any) -> torch.Tensor:
            run = run_of(model, node)
            cut = self._cut(run, node)
            n_query, n_key = scores.shape[-2:]
            first = run.remember(key, lambda: Passes.of(run, node, cut.shape[1])).next(node, n_query)
            pairs = _pairs(cut, first, n_query, n_key, self.generated)[:, None]
            pairs = pairs if heads is None else pairs & heads[:, None, None]
            return scores.masked_fill(per_entry(pairs, len(scores), node, run).to(scores.device), float("-inf"))

        return fill


def _pairs(cut: torch.Tensor, first: int, n_query: int, n_key: int, generated: bool) -> torch.Tensor:
    """The pairs of one pass: of the prompt's positions in it and, where asked for, of the new ones."""
    length = cut.shape[1]
    pairs = torch.zeros(len(cut), n_query, n_key, dtype=torch.bool)
    old = cut[:, first : first + n_query]
    pairs[:, : old.shape[1], :length] = old
    if generated:
        pairs[:, old.shape[1] :, :length] = cut.any(1)[:, None]
    return pairs


def score_points(model: HookedMultimodal, part: Part, layers: Sequence[int] | None) -> list[Node]:
    """The attention scores of a part's blocks.

    Raises:
        InputError: for layers that the part lacks, or that have no attention whose scores can be reached.
    """
    require_part(part)
    found = {
        node.layer: node
        for node in model.graph
        if (node.part, node.stack, node.kind) == (part, "blocks", "attn.attn_scores") and node.layer is not None
    }
    if not found or (layers is not None and not len(layers)):
        raise InputError(f"No layer was named, or the part {part!r} has no attention whose scores can be reached.")
    missing = [layer for layer in layers or () if layer not in found]
    if missing:
        raise InputError(
            f"layers={missing} of {part} have no attention scores; it has them in layers {', '.join(map(str, found))}."
        )
    return [found[layer] for layer in (found if layers is None else layers)]


def head_mask(model: HookedMultimodal, part: Part, heads: Sequence[int] | None) -> Bool[torch.Tensor, "head"] | None:
    """True at some of a part's heads; None for all.

    Raises:
        InputError: for heads that it lacks, or none.
    """
    if heads is None:
        return None
    count = model.part(part).cfg.n_heads
    wrong = [head for head in heads if not 0 <= head < count]
    if wrong or not len(heads):
        raise InputError(f"heads={list(heads)} must name some of the {count} heads, 0..{count - 1}.")
    mask = torch.zeros(count, dtype=torch.bool)
    mask[list(heads)] = True
    return mask


def require_batch_axis(node: Node) -> None:
    """Refuse attention that runs over all pictures in one sequence.

    Raises:
        InputError: if it does.
    """
    if not node.axes.startswith("batch"):
        raise InputError(
            f"{node.name} has no batch axis (all pictures in one sequence); cut attention in the language model instead."
        )


def cut_pairs(
    batch: MultimodalBatch, node: Node, queries: RowRule, keys: RowRule
) -> Bool[torch.Tensor, "batch query key"]:
    """The pairs of positions that a knock-out cuts, of those that see each other.

    Args:
        batch: the batch.
        node: attention scores; where tokens are written, a position sees those before it and itself.
        queries, keys: position rules.

    Returns:
        One table per sample; in towers one for all, or one per picture or tile.

    Raises:
        InputError: if no pair is left to cut, or a query would have no key left.
    """
    length = sequence_length(batch, node.sequence)
    if length is None:
        raise InputError(f"The length of the {node.sequence} sequence is not known before a run; cut elsewhere.")
    require_batch_axis(node)
    asking, asked = (marked(batch, rule, node.sequence, length) for rule in (queries, keys))
    size = batch.size if node.sequence in GROWING else max(len(asking), len(asked))
    seen = torch.ones(size, length, length, dtype=torch.bool)
    if node.sequence in GROWING:
        seen = seen.tril()
    if node.sequence == "language":
        seen = seen & batch.layout.is_token[:, None, :]
    cut = seen & asking[:, :, None] & asked[:, None, :]
    if not cut.any(2).any(1).all():
        empty = (~cut.any(2).any(1)).nonzero().flatten().tolist()
        raise InputError(
            f"queries={queries!r} see none of keys={keys!r} in samples {empty} anyway: a position sees itself and those before."
        )
    blind = cut.any(2) & ~(seen & ~cut).any(2)
    if blind.any():
        sample, position = blind.nonzero()[0].tolist()
        raise InputError(
            f"Position {position} of sample {sample} would have no key left to look at; leave it out of queries, or one of "
            "the positions that it sees (itself, say) out of keys."
        )
    return cut
