"""Attention knock-out: some positions are kept from looking at others.

Source: Geva et al., "Dissecting Recall of Factual Associations in Auto-Regressive Language Models", EMNLP 2023
(https://arxiv.org/abs/2304.14767), section 5.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch

from mmlens.core.contract import checked
from mmlens.core.kinds import Index, Several
from mmlens.core.names import Part
from mmlens.core.rules import Positions, as_rule
from mmlens.hooks.nodes import Node
from mmlens.hooks.session import HookFunction, HookPair
from mmlens.inputs.point_rows import GROWING
from mmlens.interventions.attention_pairs import (
    AttentionPairs,
    AttentionTo,
    cut_scores,
    mask_decides,
    pair_lengths,
    require_batch_axis,
    score_points,
)
from mmlens.interventions.head_choice import HeadChoice, head_masks
from mmlens.interventions.passes import Passes, refuse_known_positions, run_of
from mmlens.interventions.positioned import new_tokens_read, once_per_prompt, per_entry
from mmlens.models.hooked import HookedMultimodal
from mmlens.models.run import Run


@dataclass(frozen=True)
class AtPairs(ABC):
    """An intervention on attention scores, at pairs of a query and a key; its arguments are those of `KnockOut`."""

    #: Whether a query may lose all keys that it sees: no, where pairs are cut.
    may_blind: ClassVar[bool] = True

    queries: Positions
    keys: Positions
    layers: Several[Index] | None = field(default=None, kw_only=True)
    heads: HeadChoice = field(default=None, kw_only=True)
    part: Part = field(default="language", kw_only=True)
    stack: str = field(default="blocks", kw_only=True)
    attention: AttentionTo = field(default="self", kw_only=True)

    def hooks(self, model: HookedMultimodal) -> list[HookPair]:
        """One hook per block.

        Raises:
            InputError: if blocks or heads do not exist, or queries or keys are no rules.
        """
        as_rule(self.queries)
        as_rule(self.keys)
        points = head_masks(model, self._points(model), self.heads, self.layers, verb=type(self).__name__)
        require_batch_axis(points[0][0])
        return [(node.name, self._cutter(model, node, heads)) for node, heads in points]

    def starts(self, run: Run) -> None:
        """Find the pairs in the batch that is about to run.

        Raises:
            InputError: if no query sees any of the keys anyway, or a query would be left with no key where they are cut.
        """
        node = self._points(run.model)[0]
        if None not in pair_lengths(run.model, run.batch, node):  # else only the pass tells how many rows there are
            self._cut(run, node, None)

    @abstractmethod
    def changed(self, scores: torch.Tensor, pairs: torch.Tensor, node: Node, *, by_mask: bool) -> torch.Tensor:
        """The scores of a pass, those of pairs changed.

        Args:
            scores: `[... query key]`, with very low numbers where the model itself lets nobody look.
            pairs: True at those that are meant, broadcastable.
            node: the point.
            by_mask: whether these numbers alone say what a query sees; see `mask_decides`.
        """

    def require(self, pairs: AttentionPairs) -> None:
        """Refuse pairs with which nothing would change; raises InputError."""
        pairs.require_some()

    def _points(self, model: HookedMultimodal) -> list[Node]:
        return score_points(model, self.part, self.layers, stack=self.stack, attention=self.attention)

    def _cut(self, run: Run, node: Node, shape: Sequence[int] | None) -> AttentionPairs:
        """What is cut in a run; `shape` is that of the scores, where only the run tells it."""
        if node.sequence in GROWING:
            refuse_known_positions(run)

        def find() -> AttentionPairs:
            pairs = AttentionPairs.of(
                run.model, run.batch, node, self.queries, self.keys, shape=shape, steps=new_tokens_read(run)
            )
            self.require(pairs)
            return pairs

        return run.remember((id(self), node.part), find)

    def _cutter(self, model: HookedMultimodal, node: Node, heads: torch.Tensor | None) -> HookFunction:
        key = object()
        by_mask = mask_decides(model, node)

        def fill(scores: torch.Tensor, hook: Any) -> torch.Tensor:
            run = run_of(model, node)
            cut = self._cut(run, node, once_per_prompt(scores.shape, node, run))
            *_, n_query, n_key = scores.shape
            first = run.remember(key, lambda: Passes.of(run, node, cut.prompt.shape[1])).next(node, n_query)
            pairs = cut.of_pass(first, n_query, n_key, may_blind=self.may_blind)[:, None]
            pairs = pairs if heads is None else pairs & heads[:, None, None]
            return self.changed(scores, per_entry(pairs, len(scores), node, run), node, by_mask=by_mask)

        return fill


@checked
@dataclass(frozen=True)
class KnockOut(AtPairs):
    """Cut attention from some positions to others: their scores become minus infinity, and the rest shares the pattern.

    Args:
        queries: the positions that look (see `mm.positions`): new tokens of a generation too, where the rule means them.
        keys: the positions that they may no longer look at.
        layers: block numbers; None for all.
        heads: head numbers, in each of the layers; or heads (`"L2.h3"`, `circuit.top(3)`), which bring their layers along; None
            for all.
        part: the tower.
        stack: which of its stacks of blocks, as hook names have it: `"encoder.blocks"` is an encoder that reads the prompt.
        attention: `"self"`, or `"cross"` for attention to another sequence, on which keys then are: the picture's rows, or the
            prompt that an encoder read; queries are on the block's own, in a decoder what it has written.

    Example:
        >>> from mmlens import positions
        >>> with model.intervene(KnockOut(positions.last | positions.generated, "image", layers=range(0, 3))):
        ...     answer = model.generate(batch, max_new_tokens=3)
    """

    may_blind: ClassVar[bool] = False

    def changed(self, scores: torch.Tensor, pairs: torch.Tensor, node: Node, *, by_mask: bool) -> torch.Tensor:
        """The scores without the pairs."""
        return cut_scores(scores, pairs, node, by_mask=by_mask)

    def require(self, pairs: AttentionPairs) -> None:
        """Refuse cuts of nothing, and of everything; raises InputError."""
        pairs.require()
