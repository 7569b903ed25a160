"""A Llama's forward in few operations, over the weights of the Hugging Face model: several times as fast to train on a CPU.

Attention is plain batched products with an additive mask (the fused kernel's backward is the slow part on CPUs),
projections of one input run as one product, and all products run in the type asked for while the residual stream stays in
float32.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F
from transformers import LlamaConfig

ROTATION_BASE = 10_000.0
"""Of rotary positions; Llama's default, which `make_config` leaves as it is."""

Weights = Mapping[str, Tensor]
"""Parameters of a `LlamaModel` by name, as `named_parameters` gives them, changed ones in their place."""


def llama_states(
    weights: Weights,
    config: LlamaConfig,
    embeddings: Float[Tensor, "batch pos d_model"],
    positions: Int[Tensor, "batch pos"],
    mask: Float[Tensor, "batch 1 pos pos"],
    *,
    dtype: torch.dtype = torch.float32,
    layers: list[Tensor] | None = None,
    neurons: list[Tensor] | None = None,
) -> Float[Tensor, "batch pos d_model"]:
    """Run the layers and the last norm.

    Args:
        weights: See `Weights`.
        config: The model's configuration: full attention, no biases, silu.
        embeddings: What enters the first layer.
        positions: Of every token.
        mask: 0 where a query may attend to a key, a large negative number elsewhere.
        dtype: What products are computed in.
        layers: Gets what leaves every layer, if given.
        neurons: Gets what enters every layer's down projection, if given.

    Returns:
        The normed states, float32.
    """
    width, heads = config.hidden_size, config.num_attention_heads
    batch, length = positions.shape
    cos, sin = _rotations(config, positions, dtype)
    mask = mask.to(dtype).expand(batch, heads, length, length).reshape(batch * heads, length, length)
    scale = (width // heads) ** -0.5
    states = embeddings.float()
    for layer in range(config.num_hidden_layers):
        name = f"layers.{layer}."
        attention, mlp = name + "self_attn.", name + "mlp."

        def weight(*names: str) -> Tensor:
            return torch.cat([weights[part + ".weight"].to(dtype) for part in names])

        inner = _norm(states, weights[name + "input_layernorm.weight"], config).to(dtype)
        joint = F.linear(inner, weight(attention + "q_proj", attention + "k_proj", attention + "v_proj"))
        query, key, value = joint.view(batch, length, 3 * heads, -1).transpose(1, 2).split(heads, dim=1)
        query, key = (_rotated(query, cos, sin) * scale).flatten(0, 1), _rotated(key, cos, sin).flatten(0, 1)
        scores = torch.baddbmm(mask, query, key.transpose(1, 2))
        values = torch.bmm(scores.softmax(dim=-1), value.flatten(0, 1))
        values = values.view(batch, heads, length, -1).transpose(1, 2).reshape(batch, length, width)
        states = states + F.linear(values, weight(attention + "o_proj"))
        inner = _norm(states, weights[name + "post_attention_layernorm.weight"], config).to(dtype)
        gate, up = F.linear(inner, weight(mlp + "gate_proj", mlp + "up_proj")).chunk(2, dim=-1)
        activity = F.silu(gate) * up
        states = states + F.linear(activity, weight(mlp + "down_proj"))
        if neurons is not None:
            neurons.append(activity)
        if layers is not None:
            layers.append(states)
    return _norm(states, weights["norm.weight"], config)


def additive(mask: Bool[Tensor, "batch pos pos"]) -> Float[Tensor, "batch 1 pos pos"]:
    """Turn "may attend" into what is added to scores."""
    return torch.zeros(mask.shape).masked_fill_(~mask, -1e4)[:, None]


def _norm(states: Tensor, gain: Tensor, config: LlamaConfig) -> Tensor:
    return F.rms_norm(states, (states.shape[-1],), gain, config.rms_norm_eps)


def _rotations(config: LlamaConfig, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    half = config.hidden_size // config.num_attention_heads // 2
    rates = 1.0 / ROTATION_BASE ** (torch.arange(half) / half)
    angles = positions[:, None, :, None].float() * rates
    return angles.cos().to(dtype), angles.sin().to(dtype)


def _rotated(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn every pair (i, i + half) of a head's coordinates by its angle."""
    first, second = heads.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
