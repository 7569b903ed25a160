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
from mmlens.interventions.reach import marked
from mmlens.interventions.sample_rows import RowRule
from mmlens.models.hooked import HookedMultimodal
from mmlens.models.layout import TokenLayout


@dataclass(frozen=True)
class KnockOut:
    """Cut attention from some positions to others: their scores become minus infinity, and the rest shares the pattern.

    Args:
        queries: the positions that look: a rule, or one list of rows per sample.
        keys: the positions that they may no longer look at.
        layout: of the batch to come.
        layers: block numbers; None for all.
        heads: head numbers; None for all.
        part: the tower; its self-attention is meant.
        generated: cut the new tokens of a generation from the keys too.

    Example:
        >>> with model.intervene(KnockOut("last", "image", batch.layout, layers=range(0, 3))):
        ...     logits = model(batch)
    """

    queries: RowRule
    keys: RowRule
    layout: TokenLayout = field(repr=False)
    layers: Sequence[int] | None = None
    heads: Sequence[int] | None = None
    part: Part = "language"
    generated: bool = False

    def hooks(self, model: HookedMultimodal) -> list[HookPair]:
        """One hook per block.

        Raises:
            InputError: if blocks or heads do not exist, no query sees any of the keys anyway, or a query would be left with
                no key at all.
        """
        nodes = score_points(model, self.part, self.layers)
        heads = head_mask(model, self.part, self.heads)
        cut = cut_pairs(nodes[0], self.layout, self.queries, self.keys)
        keys = cut.any(1) if self.generated else None
        return [(node.name, _cutter(node, cut, heads, keys)) for node in nodes]


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


def cut_pairs(
    node: Node, layout: TokenLayout, queries: RowRule, keys: RowRule
) -> Bool[torch.Tensor, "batch query key"]:
    """The pairs of positions that a knock-out cuts, of those that see each other.

    Args:
        node: attention scores; in the language model a position sees those before it and itself.
        layout: of the batch.
        queries, keys: position rules.

    Raises:
        InputError: if no pair is left to cut, or a query would have no key left.
    """
    length = layout.length(node.sequence)
    if length is None:
        raise InputError(f"The length of the {node.sequence} sequence is not known before a run; cut elsewhere.")
    if not node.axes.startswith("batch"):
        raise InputError(
            f"{node.name} has no batch axis (all pictures in one sequence); cut attention in the language model instead."
        )
    size = len(layout.is_token)
    asking, asked = (marked(layout, rule, node.sequence, length) for rule in (queries, keys))
    seen = torch.ones(size, length, length, dtype=torch.bool)
    if node.sequence == "language":
        seen = seen.tril() & layout.is_token[:, None, :]
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


def _cutter(node: Node, cut: torch.Tensor, heads: torch.Tensor | None, keys: torch.Tensor | None) -> HookFunction:
    length = cut.shape[1]

    def pairs_of(n_query: int, n_key: int) -> torch.Tensor:
        """The pairs of one pass: the prompt's, those of a step of a generation, or both."""
        if (n_query, n_key) == (length, length):
            return cut
        pairs = torch.zeros(len(cut), n_query, n_key, dtype=torch.bool)
        if n_query == n_key:
            pairs[:, :length, :length] = cut
        new = min(n_query, n_key - length)
        if keys is not None and new:
            pairs[:, -new:, :length] = keys[:, None]
        return pairs

    def fill(scores: torch.Tensor, hook: Any) -> torch.Tensor:
        n_query, n_key = scores.shape[-2:]
        if len(scores) != len(cut) or n_key < length:
            raise InputError(
                f"The knock-out was made for a batch of {list(cut.shape[:2])} [batch pos], this run has "
                f"[{len(scores)}, {n_key}] at {node.name}."
            )
        mask = pairs_of(n_query, n_key)[:, None]
        mask = mask if heads is None else mask & heads[None, :, None, None]
        return scores.masked_fill(mask.to(scores.device), float("-inf"))

    return fill
