"""Queries and keys through the softmax exactly: the QK fix of AtP*.

A patch of a query or key changes the attention pattern through a softmax that is often saturated, where a gradient says
nothing. So the new pattern is computed, and only what comes after it is taken to first order:

    effect = sum over heads, queries, keys of (pattern with the patch - pattern) . d metric / d pattern

Source: Kramár, Lieberum, Shah and Nanda, "AtP*: An efficient and scalable method for localizing LLM behaviour to components",
2024 (https://arxiv.org/abs/2403.00745), section 3.1.
Departs: the scores with the patched queries (and those with the patched keys) of all layers come out of one run of the model, in
which every layer goes on with its unpatched scores; so rotary embeddings, masks, biases and caps are the family's own.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from mmlens.hooks.session import HookPair
from mmlens.inputs.batch import MultimodalBatch
from mmlens.models.hooked import HookedMultimodal


def inner_points(name: str) -> tuple[str, str]:
    """The scores and the pattern that a query or key point leads to."""
    before = name.rpartition("hook_")[0]
    return f"{before}hook_attn_scores", f"{before}hook_pattern"


@torch.no_grad()
def patched_scores(
    model: HookedMultimodal,
    batch: MultimodalBatch,
    names: Sequence[str],
    source: Mapping[str, torch.Tensor],
    scores: Mapping[str, torch.Tensor],
) -> dict[str, torch.Tensor]:
    """The scores of each layer if its queries (or keys), and nothing before them, were those of another run.

    Args:
        model: the hooked model.
        batch: the run that is patched.
        names: query points, or key points; at most one per attention.
        source: the other run's activations by point.
        scores: the scores of the patched run, by point.
    """
    patched: dict[str, torch.Tensor] = {}

    def put(value: torch.Tensor) -> Callable[..., torch.Tensor]:
        return lambda activation, hook: value.to(activation)

    def back(name: str, score: torch.Tensor) -> Callable[..., torch.Tensor]:
        def keep(activation: torch.Tensor, hook: Any) -> torch.Tensor:
            patched[name] = activation.clone()
            return score.to(activation)  # the layers above see what they saw without the patch

        return keep

    pairs: list[HookPair] = []
    for name in names:
        where = inner_points(name)[0]
        pairs += [(name, put(source[name])), (where, back(name, scores[where]))]
    with model.hooks(pairs):
        model(batch)
    return patched


@dataclass(frozen=True)
class PatternEffect:
    """What patches of one layer's queries or keys do to its pattern, and what that does to the metric.

    Attributes:
        scores: of the patched run.
        patched: with all queries (or keys) of the other run.
        pattern: of the patched run.
        gradient: of the metric at the pattern.
    """

    scores: torch.Tensor
    patched: torch.Tensor
    pattern: torch.Tensor
    gradient: torch.Tensor

    def _effect(self, scores: torch.Tensor) -> torch.Tensor:
        """`[... head query]`, summed over keys."""
        new = torch.softmax(scores.float(), dim=-1).to(self.pattern)
        # a row that may attend to nothing (padding) attends to nothing after the patch too
        new = new * (self.pattern.sum(-1, keepdim=True) > 0)
        return ((new - self.pattern) * self.gradient).sum(-1)

    def of_queries(self) -> torch.Tensor:
        """The effect of each query's patch alone, `[... query head 1]`: queries do not meet in the softmax."""
        return self._effect(self.patched).movedim(-2, -1)[..., None]

    def of_keys(self, keys: torch.Tensor) -> torch.Tensor:
        """The effect of patching some keys together, `[... head]`.

        Args:
            keys: which, bool, `[... key]`.
        """
        mask = keys[..., None, None, :].to(self.scores.device)
        return self._effect(torch.where(mask, self.patched, self.scores)).sum(-1)
