"""Contract: every point of every declared family has a gradient, wherever it is said to reach the logits."""

from typing import Any

import pytest
import torch

from tests.contracts.test_families import batch_of
from tests.families import FAMILIES
from tests.tiny import Tiny


@pytest.mark.parametrize("tiny", FAMILIES, ids=lambda tiny: tiny.name)
def test_gradients_reach_every_live_point(tiny: Tiny) -> None:
    """Seen through views (rows laid out anew, gates, streams between branches), a tensor is still the one that is used."""
    model = tiny.make()
    model.hf_model.requires_grad_(True)
    batch = batch_of(tiny, model)
    seen: dict[str, torch.Tensor] = {}

    def keep(activation: torch.Tensor, hook: Any) -> None:
        activation.retain_grad()
        seen[hook.name] = activation

    logits = model.run_with_hooks(batch, fwd_hooks=[("*", keep)])
    logits.pow(2).mean().backward()
    assert set(seen) == set(model.graph.names)
    flat = [name for name, held in seen.items() if held.grad is None or not held.grad.any()]
    assert [name for name in flat if model.graph[name].dead is None] == []
