"""Queries, keys and values mean in every family what they do in TransformerLens: what the linear returns."""

from typing import Any

import pytest
import torch
import transformers
from torch import nn

from mmlens.architectures.modules import find_module
from mmlens.hooks.attention import kernel_of
from mmlens.models.decoder import attention_of
from tests.contracts.test_families import batch_of
from tests.families import FAMILIES
from tests.tiny import TINY, Tiny


def linear_outputs(model: Any, attention: str) -> tuple[dict[str, tuple[nn.Module, slice]], int]:
    """The linears of an attention, each with its part of the output, and the width of a head."""
    weights = attention_of(model, attention)
    declared, queries = weights.declared, weights.heads * weights.d_head
    made = {}
    for number, letter in enumerate("qkv"):
        path = getattr(declared, letter)
        linear = find_module(weights.module, path or declared.qkv or "nothing")
        if linear is None:
            continue
        width = linear.out_features
        bounds = (0, queries, (width + queries) // 2, width)
        made[letter] = (linear, slice(None) if path else slice(bounds[number], bounds[number + 1]))
    return made, weights.d_head


@pytest.mark.parametrize("tiny", [*TINY, *FAMILIES], ids=lambda tiny: tiny.name)
@torch.no_grad()
def test_queries_and_keys_are_what_the_linears_return(tiny: Tiny) -> None:
    """In every attention whose linears are declared, whatever comes behind them; where that cannot be seen there is no point."""
    if tiny.name == "llama4" and transformers.__version__.startswith("5.24."):
        pytest.skip(
            "Llama 4 of transformers 5.24 fails by itself: it asks what its language model returns for image_outputs"
        )
    model = tiny.make()
    batch = batch_of(tiny, model)
    attentions = list(dict.fromkeys(name.rpartition(".")[0] for name in model.graph.names if name.endswith("hook_z")))
    seen: dict[str, torch.Tensor] = {}
    expected: dict[str, torch.Tensor] = {}
    handles = []
    for attention in attentions:
        if kernel_of(model.hook_dict, attention) is None or "blocks" not in attention:
            continue
        declared = attention_of(model, attention).declared
        if declared.joined or declared.over_channels:
            continue
        made, d_head = linear_outputs(model, attention)
        for letter, (linear, part) in made.items():
            name = f"{attention}.hook_{letter}"
            if name not in model.hook_dict:
                assert "cross_attn" in attention, name
                assert letter != "q", name  # rows that another sequence lays out
                continue
            step = 2 if declared.gated and letter == "q" else 1

            def keep(
                module: nn.Module, args: Any, out: torch.Tensor, name=name, part=part, step=step, d=d_head
            ) -> None:
                expected[name] = out[..., part].unflatten(-1, (-1, d))[..., ::step, :]

            handles.append(linear.register_forward_hook(keep))
    seen = (
        dict(model.run_with_cache(batch, names=["**.hook_q", "**.hook_[kv]"])[1].items()) if expected or handles else {}
    )
    for handle in handles:
        handle.remove()
    for name, tensor in expected.items():
        assert torch.equal(seen[name].flatten(), tensor.flatten()), name
