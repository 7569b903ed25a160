"""The plain way to patch: one forward pass of the whole batch per cell, with a hook that copies rows."""

from collections.abc import Sequence
from typing import Any

import torch

from mmlens.hooks.session import HookPair


def answers(model: Any, batch: Any, hooks: Sequence[HookPair] = ()) -> torch.Tensor:
    """Logits `[batch vocab]` at each sample's last position."""
    with torch.no_grad():
        logits = model.run_with_hooks(batch, fwd_hooks=list(hooks))
    return logits[torch.arange(len(logits)), batch.layout.last]


def copying(
    model: Any, name: str, source: torch.Tensor, rows: Sequence[torch.Tensor], unit: int | None = None
) -> HookPair:
    """A hook that copies rows of each sample out of another run's activation; of one head or neuron, if a unit is given.

    Args:
        model: the hooked model.
        name: a point with a batch axis over samples, or without one.
        source: its activation in the other run.
        rows: per sample; positions, or queries at scores and patterns.
        unit: number along the axis of heads or neurons.
    """
    words = model.graph[name].axes.split()
    where = next(i for i, word in enumerate(words) if word in ("pos", "patch", "query", "key"))

    def put(activation: torch.Tensor, hook: Any) -> torch.Tensor:
        new = activation.clone()
        for sample, chosen in enumerate(rows):
            index: list[Any] = [slice(None)] * len(words)
            if words[0] == "batch":
                index[0] = sample
            index[where] = chosen
            if unit is not None:
                index[words.index("head" if "head" in words else "neuron")] = slice(unit, unit + 1)
            # one index tensor and slices around it: each copies the same cells from one tensor to the other
            new[tuple(index)] = source[tuple(index)]
        return new

    return name, put


def rows_named(batch: Any, model: Any, name: str, word: str) -> list[torch.Tensor]:
    """Rows of each sample, from what the batch says of itself."""
    node = model.graph[name]
    if node.sequence == "language":
        return {"image": batch.layout.image, "last": [row[None] for row in batch.layout.last]}[word]
    assert word == "image"
    found = []
    for sample in range(batch.size):
        if node.sequence == "queries":
            found.append(torch.arange(4))
        else:
            part = "projector" if node.sequence == "projector" else "vision"
            found.append(batch.layout.grid(part, sample=sample).rows)
    return found
