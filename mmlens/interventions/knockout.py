"""Attention knock-out: some positions are kept from looking at others.

Source: Geva et al., "Dissecting Recall of Factual Associations in Auto-Regressive Language Models", EMNLP 2023
(https://arxiv.org/abs/2304.14767), section 5.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, TypeAlias, get_args

import torch
from jaxtyping import Bool

from mmlens.core.errors import InputError
from mmlens.core.names import Part, require_part
from mmlens.hooks.attention import allowed_by
from mmlens.hooks.nodes import Node
from mmlens.hooks.session import HookFunction, HookPair
from mmlens.inputs.batch import MultimodalBatch
from mmlens.interventions.passes import GROWING, Passes, refuse_known_positions, run_of
from mmlens.interventions.positioned import marked, per_entry
from mmlens.interventions.sample_rows import RowRule, sequence_length
from mmlens.models.decoder import attention_of
from mmlens.models.hooked import HookedMultimodal
from mmlens.models.run import Run

#: Attention of a block over its own sequence, or to another one: the picture, or what an encoder read.
AttentionTo: TypeAlias = Literal["self", "cross"]


@dataclass(frozen=True)
class KnockOut:
    """Cut attention from some positions to others: their scores become minus infinity, and the rest shares the pattern.

    Args:
        queries: the positions that look: a rule, or one list of rows per sample.
        keys: the positions that they may no longer look at.
        layers: block numbers; None for all.
        heads: head numbers; None for all.
        part: the tower.
        stack: which of its stacks of blocks, as hook names have it: `"encoder.blocks"` is an encoder that reads the prompt.
        attention: `"self"`, or `"cross"` for attention to another sequence, on which keys then are: the picture's rows, or the
            prompt that an encoder read; queries are on the block's own, in a decoder what it has written.
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
    stack: str = field(default="blocks", kw_only=True)
    attention: AttentionTo = field(default="self", kw_only=True)
    generated: bool = field(default=False, kw_only=True)

    def hooks(self, model: HookedMultimodal) -> list[HookPair]:
        """One hook per block.

        Raises:
            InputError: if blocks or heads do not exist.
        """
        nodes = self._points(model)
        require_batch_axis(nodes[0])
        heads = head_mask(model, nodes[0], self.heads)
        return [(node.name, self._cutter(model, node, heads)) for node in nodes]

    def starts(self, run: Run) -> None:
        """Find the pairs to cut in the batch that is about to run.

        Raises:
            InputError: if no query sees any of the keys anyway, or a query would be left with no key at all.
        """
        node = self._points(run.model)[0]
        if None not in _lengths(run.model, run.batch, node):  # else only the pass tells how many rows there are
            self._cut(run, node)

    def _points(self, model: HookedMultimodal) -> list[Node]:
        return score_points(model, self.part, self.layers, stack=self.stack, attention=self.attention)

    def _cut(self, run: Run, node: Node, shape: Sequence[int] = ()) -> Bool[torch.Tensor, "batch query key"]:
        """The pairs of the prompt's positions that are cut; `shape` as for `cut_pairs`."""
        if node.sequence in GROWING:
            refuse_known_positions(run)
        found = partial(cut_pairs, run.model, run.batch, node, self.queries, self.keys, shape=shape)
        return run.remember((id(self), node.part), found)

    def _cutter(self, model: HookedMultimodal, node: Node, heads: torch.Tensor | None) -> HookFunction:
        key = object()
        by_mask = mask_decides(model, node)

        def fill(scores: torch.Tensor, hook: Any) -> torch.Tensor:
            run = run_of(model, node)
            cut = self._cut(run, node, scores.shape[-2:])
            n_query, n_key = scores.shape[-2:]
            first = run.remember(key, lambda: Passes.of(run, node, cut.shape[1])).next(node, n_query)
            pairs = _pairs(cut, first, n_query, n_key, self.generated)[:, None]
            pairs = pairs if heads is None else pairs & heads[:, None, None]
            return cut_scores(scores, per_entry(pairs, len(scores), node, run), node, by_mask=by_mask)

        return fill


def _pairs(cut: torch.Tensor, first: int, n_query: int, n_key: int, generated: bool) -> torch.Tensor:
    """The pairs of one pass: of the prompt's positions in it and, where asked for, of the new ones."""
    pairs = torch.zeros(len(cut), n_query, n_key, dtype=torch.bool)
    old = cut[:, first : first + n_query, :n_key]  # a prompt that is read in pieces has no later keys yet
    pairs[:, : old.shape[1], : old.shape[2]] = old
    if generated:
        pairs[:, old.shape[1] :, : old.shape[2]] = cut.any(1)[:, None, :n_key]
    return pairs


def mask_decides(model: HookedMultimodal, node: Node) -> bool:
    """Whether only the mask that the model makes in a run says what positions see: of another sequence, or of later positions."""
    ahead = node.sequence == model.graph["hook_logits"].sequence and model.family.language.looks_ahead
    return node.kind == "cross_attn.attn_scores" or ahead


def cut_scores(scores: torch.Tensor, pairs: torch.Tensor, node: Node, *, by_mask: bool) -> torch.Tensor:
    """Attention scores without the pairs that are cut.

    Args:
        scores: `[... query key]`, with very low numbers where the model itself lets nobody look.
        pairs: true at those that are cut.
        node: the point.
        by_mask: whether these numbers alone say what a query sees; see `mask_decides`.

    Raises:
        InputError: if, by them, a query has no key left.
    """
    pairs = pairs.to(scores.device)
    if by_mask:
        seen = allowed_by(scores)
        blind = (seen & pairs).any(-1) & ~(seen & ~pairs).any(-1)
        if blind.any():
            query = int(blind.nonzero()[0, -1])
            raise InputError(
                f"Query {query} at {node.name} would have no key left to look at; leave one of the keys that it sees."
            )
    return scores.masked_fill(pairs, float("-inf"))


def score_points(
    model: HookedMultimodal,
    part: Part,
    layers: Sequence[int] | None,
    *,
    stack: str = "blocks",
    attention: AttentionTo = "self",
) -> list[Node]:
    """The attention scores of a part's blocks.

    Args:
        model: the hooked model.
        part: the tower.
        layers: block numbers; None for all.
        stack: which of its stacks of blocks.
        attention: over the blocks' own sequence, or to another one.

    Raises:
        InputError: for layers that the part lacks, or that have no attention whose scores can be reached.
    """
    require_part(part)
    if attention not in get_args(AttentionTo):
        raise InputError(f"attention={attention!r} must be 'self' or 'cross'.")
    kind = "attn.attn_scores" if attention == "self" else "cross_attn.attn_scores"
    alike = [node for node in model.graph if node.part == part and node.kind == kind]
    found = {node.layer: node for node in alike if node.stack == stack and node.layer is not None}
    if not found:
        others = ", ".join(map(repr, dict.fromkeys(node.stack for node in alike))) or "none"
        raise InputError(
            f"The part {part!r} has no {attention}-attention whose scores can be reached in the stack {stack!r}; stacks "
            f"that have: {others}."
        )
    if layers is not None and not len(layers):
        raise InputError("No layer was named: layers is empty.")
    missing = [layer for layer in layers or () if layer not in found]
    if missing:
        raise InputError(
            f"layers={missing} of {part} have no attention scores; it has them in layers {', '.join(map(str, found))}."
        )
    return [found[layer] for layer in (found if layers is None else layers)]


def head_mask(model: HookedMultimodal, node: Node, heads: Sequence[int] | None) -> Bool[torch.Tensor, "head"] | None:
    """True at some of the heads whose scores a point holds; None for all.

    Raises:
        InputError: for heads that it lacks, or none.
    """
    if heads is None:
        return None
    count = attention_of(model, node.name.rpartition(".")[0]).heads
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
    model: HookedMultimodal,
    batch: MultimodalBatch,
    node: Node,
    queries: RowRule,
    keys: RowRule,
    *,
    shape: Sequence[int] = (),
) -> Bool[torch.Tensor, "batch query key"]:
    """The pairs of positions that a knock-out cuts, of those that see each other.

    Args:
        model: the hooked model.
        batch: the batch.
        node: attention scores. Where tokens are written, a position sees those before it and itself, unless only the model's
            mask says what it sees (`mask_decides`): then pairs that it hides may be among those that are returned.
        queries, keys: position rules.
        shape: numbers of queries and keys in a pass, for sequences whose length the batch does not tell (learned queries).

    Returns:
        One table per sample; in towers one for all, or one per picture or tile.

    Raises:
        InputError: if no pair is left to cut, or a query would have no key left.
    """
    require_batch_axis(node)
    looked_at = _looked_at(model, node)
    lengths = [known or found for known, found in zip(_lengths(model, batch, node), shape or (None, None), strict=True)]
    asking = _marked(batch, queries, node.sequence, lengths[0])
    asked = _marked(batch, keys, looked_at, lengths[1])
    size = batch.size if node.sequence in GROWING else max(len(asking), len(asked))
    seen = torch.ones(size, asking.shape[1], asked.shape[1], dtype=torch.bool)
    if looked_at == model.graph["hook_logits"].sequence and not mask_decides(
        model, node
    ):  # an encoder sees all of the prompt
        seen = seen.tril()
    if looked_at == "language":
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


def _looked_at(model: HookedMultimodal, node: Node) -> str:
    """The sequence that keys are on."""
    return model.graph[node.name.replace("attn_scores", "k")].sequence


def _lengths(model: HookedMultimodal, batch: MultimodalBatch, node: Node) -> tuple[int | None, int | None]:
    """How many queries and keys there are, where the batch tells."""
    return sequence_length(batch, node.sequence), sequence_length(batch, _looked_at(model, node))


def _marked(
    batch: MultimodalBatch, rule: RowRule, sequence: str, length: int | None
) -> Bool[torch.Tensor, "batch pos"]:
    """True at the positions of a rule on a sequence.

    Raises:
        InputError: if only a run tells how long it is.
    """
    if length is None:
        raise InputError(
            f"The length of the {sequence} sequence is not known before a run. Cut elsewhere, or in single runs: "
            "with model.intervene(KnockOut(...))."
        )
    return marked(batch, rule, sequence, length)
