"""Fixes the arbitrary sign of gated MLP neurons.

In a gated MLP, q = act(gate) * up, and W_down q stays the same when a neuron's row of W_up and its column of
W_down both change sign. Training leaves that sign to chance, so about half of all neurons write a word by a
negative activation times the negative of the word's direction; read as words, such a neuron says everything
but its word. Here the sign is chosen so that a neuron is positive where it is most active. The function
of the model stays exactly the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from transformers import LlavaForConditionalGeneration

from mmlens.lab.training.data import PackedBatch
from mmlens.lab.training.objectives import packed_logits, recorded_neurons


@torch.no_grad()
def fix_signs(model: LlavaForConditionalGeneration, batches: Iterable[PackedBatch]) -> int:
    """Flip neurons in place so that each one's strongest activations are positive.

    A neuron is flipped if the sum of q * |q| over the batches' predicting positions is negative.

    Args:
        model: The lab model.
        batches: Packed rows over which activity is measured.

    Returns:
        The number of neurons flipped.
    """
    layers = model.model.language_model.layers
    balance = [torch.zeros(layer.mlp.down_proj.in_features) for layer in layers]
    for batch in batches:
        is_answer = batch.labels >= 0
        with recorded_neurons(model) as activations:
            packed_logits(model, batch)
        for total, activity in zip(balance, activations, strict=True):
            active = activity[is_answer].float()
            total += (active * active.abs()).sum(dim=0)
    return flip_neurons(model, balance)


@torch.no_grad()
def flip_neurons(model: LlavaForConditionalGeneration, balance: Sequence[Tensor]) -> int:
    """Flip in place the neurons whose balance is negative.

    Args:
        model: The model.
        balance: Per language layer, the sum of q * |q| of every neuron over the positions that count.

    Returns:
        The number of neurons flipped.
    """
    count = 0
    for layer, total in zip(model.model.language_model.layers, balance, strict=True):
        sign = torch.where(total < 0, -1.0, 1.0)
        layer.mlp.up_proj.weight.mul_(sign[:, None])
        layer.mlp.down_proj.weight.mul_(sign[None, :])
        count += int((sign < 0).sum())
    return count
