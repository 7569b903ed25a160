"""Pairs of a query and a key in attention: which there are at a point, what rules of positions mean of them, pass by pass."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeAlias, get_args

import torch
from jaxtyping import Bool

from mmlens.core.errors import InputError
from mmlens.core.names import Part, into_product, require_part
from mmlens.core.rules import Positions
from mmlens.hooks.attention import allowed_by
from mmlens.hooks.nodes import Node
from mmlens.inputs.batch import MultimodalBatch
from mmlens.inputs.point_rows import GROWING, sequence_length
from mmlens.inputs.positions import ResolvedPositions, resolve
from mmlens.models.hooked import HookedMultimodal

#: Attention of a block over its own sequence, or to another one: the picture, or what an encoder read.
AttentionTo: TypeAlias = Literal["self", "cross"]


@dataclass(frozen=True, eq=False)
class AttentionPairs:
    """The pairs of positions that an intervention on attention means.

    Where tokens are written, a position sees those before it and itself, unless only the model's mask says what it sees
    (`mask_decides`): then pairs that it hides may be among these.

    Attributes:
        queries, keys: what the rules mean.
        seen: True at pairs of the prompt that see each other, per sample; in towers per picture or tile.
    """

    queries: ResolvedPositions
    keys: ResolvedPositions
    seen: Bool[torch.Tensor, "entry query key"]

    @classmethod
    def of(
        cls,
        model: HookedMultimodal,
        batch: MultimodalBatch,
        node: Node,
        queries: Positions,
        keys: Positions,
        *,
        shape: Sequence[int] | None = None,
        steps: int | None = 0,
    ) -> "AttentionPairs":
        """The pairs that rules mean.

        Args:
            model: the hooked model.
            batch: the batch.
            node: attention scores.
            queries, keys: position rules.
            shape: of the scores in the run under way, for sequences whose length the batch does not tell.
            steps: how many new tokens the run reads; None for no bound.

        Raises:
            InputError: if a rule means nothing.
        """
        require_batch_axis(node)
        looked_at = _looked_at(model, node)
        if shape is None:
            for place, length in zip((node, looked_at), pair_lengths(model, batch, node), strict=True):
                if length is None:
                    raise InputError(
                        f"The length of the {place.sequence} sequence is not known before a run. Cut elsewhere, or in single "
                        "runs: with model.intervene(KnockOut(...))."
                    )
        key_shape = None
        if shape is not None:
            key_shape = [shape[-1]] * len(looked_at.axes.split())
            key_shape[0] = shape[0]
        query_rows = resolve(queries, batch, node, shape, steps=steps)
        key_rows = resolve(keys, batch, looked_at, key_shape, steps=steps)
        is_visible = torch.ones(
            len(query_rows.mask), query_rows.mask.shape[1], key_rows.mask.shape[1], dtype=torch.bool
        )
        decides = mask_decides(model, node)
        if (
            looked_at.sequence == model.graph["hook_logits"].sequence and not decides
        ):  # an encoder sees all of the prompt
            is_visible = is_visible.tril()
        if looked_at.sequence == "language":
            is_visible = is_visible & batch.layout.is_token[:, None, :]
        return cls(query_rows, key_rows, is_visible)

    @cached_property
    def prompt(self) -> Bool[torch.Tensor, "entry query key"]:
        """The pairs of the prompt that are cut."""
        return self.seen & self.queries.mask[:, :, None] & self.keys.mask[:, None, :]

    def require(self) -> None:
        """Refuse cuts of nothing, and of everything.

        Raises:
            InputError: if no pair is left to cut in a sample that has such positions, or a query would have no key left.
        """
        self.require_some()
        cut = self.prompt
        blind = cut.any(2) & ~(self.seen & ~cut).any(2)
        if blind.any():
            sample, position = blind.nonzero()[0].tolist()
            raise InputError(
                f"Position {position} of sample {sample} would have no key left to look at; leave it out of queries, or one of "
                "the positions that it sees (itself, say) out of keys."
            )

    def require_some(self) -> None:
        """Refuse pairs of which there is none.

        Raises:
            InputError: if no pair is there in a sample that has such positions.
        """
        cut, rules = self.prompt, f"queries={self.queries.rule!r} see none of keys={self.keys.rule!r}"
        later = self.queries.new(0, 64).any(1) if self.queries.point.node.sequence in GROWING else torch.zeros(0).bool()
        idle = self.queries.mask.any(1) & self.keys.mask.any(1) & ~cut.any(2).any(1)
        idle = idle & ~later if len(later) == len(idle) else idle
        if idle.any() or not (cut.any() or later.any()):
            raise InputError(
                f"{rules} in samples {idle.nonzero().flatten().tolist()} anyway: a position sees itself and those before."
            )

    def of_pass(
        self, first: int, n_query: int, n_key: int, *, may_blind: bool = False
    ) -> Bool[torch.Tensor, "entry query key"]:
        """The pairs of one pass: of the prompt's positions in it, and of the new ones.

        Args:
            first: position of the pass's first query.
            n_query, n_key: how many queries and keys it holds; where a cache drops what has left a window, the last keys.
            may_blind: whether the pairs may be all that a new token sees.

        Raises:
            InputError: if a new token would be left with no key.
        """
        cut, length = self.prompt, self.prompt.shape[1]
        sequence = self.queries.point.node.sequence
        keys_grow = sequence in GROWING and sequence == self.keys.point.node.sequence
        old = cut[:, first : first + n_query]
        if old.shape[1] == n_query:
            return _last_keys(old[:, :, : first + n_query], n_key) if keys_grow else old
        start = max(first, length)
        count = first + n_query - start
        new, keys = self.queries.new(start - length, count), self.keys.mask
        if not keys_grow:
            return torch.cat([old, new[:, :, None] & keys[:, None]], dim=1)
        keys = torch.cat([keys, self.keys.new(0, first + n_query - keys.shape[1])], dim=1)
        later = new[:, :, None] & keys[:, None]
        visible = torch.nn.functional.pad(self.seen[:, -1:], (0, keys.shape[1] - length), value=True)
        visible = visible & (torch.arange(keys.shape[1]) <= start + torch.arange(count)[:, None])
        if not may_blind and ((later & visible).any(-1) & ~(visible & ~later).any(-1)).any():
            raise InputError(
                f"New tokens would have no key left to look at: queries={self.queries.rule!r}, keys={self.keys.rule!r}; "
                "leave one of the keys that they see, themselves, say: keys=positions.prompt."
            )
        old = torch.nn.functional.pad(old, (0, keys.shape[1] - old.shape[2]))
        return _last_keys(torch.cat([old, later], dim=1), n_key)


def _last_keys(pairs: torch.Tensor, count: int) -> torch.Tensor:
    """Pairs with the last keys alone."""
    return pairs[:, :, pairs.shape[2] - count :] if pairs.shape[2] > count else pairs


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
        is_visible = allowed_by(scores)
        blind = (is_visible & pairs).any(-1) & ~(is_visible & ~pairs).any(-1)
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
    by_layer = {node.layer: node for node in alike if node.stack == stack and node.layer is not None}
    if not by_layer:
        others = ", ".join(map(repr, dict.fromkeys(node.stack for node in alike))) or "none"
        raise InputError(
            f"The part {part!r} has no {attention}-attention whose scores can be reached in the stack {stack!r}; stacks "
            f"that have: {others}."
        )
    if layers is not None and not len(layers):
        raise InputError("No layer was named: layers is empty.")
    missing = [layer for layer in layers or () if layer not in by_layer]
    if missing:
        raise InputError(
            f"layers={missing} of {part} have no attention scores; it has them in layers {', '.join(map(str, by_layer))}."
        )
    return [by_layer[layer] for layer in (by_layer if layers is None else layers)]


def require_batch_axis(node: Node) -> None:
    """Refuse attention that runs over all pictures in one sequence.

    Raises:
        InputError: if it does.
    """
    if not node.axes.startswith("batch"):
        raise InputError(
            f"{node.name} has no batch axis (all pictures in one sequence); cut attention in the language model instead."
        )


def _looked_at(model: HookedMultimodal, node: Node) -> Node:
    """The point whose rows are the keys."""
    return model.graph[into_product(model.graph.names, node.name.removesuffix(".hook_attn_scores"), "k")]


def pair_lengths(model: HookedMultimodal, batch: MultimodalBatch, node: Node) -> tuple[int | None, int | None]:
    """How many queries and keys there are, where the batch tells."""
    looked_at = _looked_at(model, node)
    return sequence_length(batch, node.sequence), sequence_length(batch, looked_at.sequence)
