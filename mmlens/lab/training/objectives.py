"""What training minimises: the tower's patch labels, and the next token of captions and answers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import LlavaForConditionalGeneration

from mmlens.lab.training.data import IGNORED, PackedBatch
from mmlens.lab.training.gallery import MOST_OBJECTS, PatchLabels
from mmlens.lab.world import COLORS, NOUNS, PLACES, SIZES

_QUICKEST = SDPBackend.MATH
"""On CPUs the backward of the fused attention kernel takes several times as long as plain matrix products."""


class PatchHeads(nn.Module):
    """Linear read-outs that the tower is first trained with, and that are thrown away afterwards.

    Args:
        d_vision: Width of the tower.
    """

    def __init__(self, d_vision: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(d_vision)
        self.ranks = nn.Linear(d_vision, 1 + MOST_OBJECTS)
        self.nouns = nn.Linear(d_vision, 1 + len(NOUNS))
        self.colors = nn.Linear(d_vision, 1 + len(COLORS))
        self.sizes = nn.Linear(d_vision, 1 + len(SIZES))
        self.centers = nn.Linear(d_vision, 2)
        self.places = nn.Linear(d_vision, len(PLACES))


def tower_loss(
    model: LlavaForConditionalGeneration,
    heads: PatchHeads,
    pixels: Float[Tensor, "batch rgb height width"],
    labels: PatchLabels,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Tell at every patch which object is seen there, where it lies and what it is, in the projector's layer.

    The captions go from left to right and the questions ask what lies where. A tower that only has to say what
    is seen at a patch drops where the patch lies, and the language model never learns it.

    Args:
        model: The model whose tower is trained.
        heads: The read-outs.
        pixels: Normalised pictures.
        labels: What is seen.

    Returns:
        The loss in nats (the error of the centres, squared, is added with a weight), and the share of object
        patches where rank, noun, colour and size are all told right.
    """
    with sdpa_kernel(_QUICKEST):
        states = model.model.vision_tower(pixels, output_hidden_states=True).hidden_states[-2]
    states = heads.norm(states[:, 1:].float())
    visible = labels.ranks > 0
    loss = 0.3 * nn.functional.cross_entropy(heads.places(states.mean(dim=1)), labels.places)
    loss = loss + 4.0 * (heads.centers(states) - labels.centers)[visible].square().mean()
    right = visible.clone()
    term = (
        (heads.ranks, labels.ranks, 0.5),
        (heads.nouns, labels.nouns, 1.0),
        (heads.colors, labels.colors, 1.0),
        (heads.sizes, labels.sizes, 0.5),
    )
    for head, truth, share in term:
        logits = head(states)
        # Three patches in four show bare ground; without the weight the tower first learns to see nothing.
        weight = torch.ones(logits.shape[-1])
        weight[0] = 0.2
        loss = loss + share * nn.functional.cross_entropy(logits.flatten(0, 1), truth.flatten(), weight=weight)
        right &= logits.argmax(dim=-1) == truth
    return loss, right[visible].float().mean()


def packed_logits(
    model: LlavaForConditionalGeneration, batch: PackedBatch
) -> tuple[Float[Tensor, "token vocab"], Int[Tensor, " token"]]:
    """Run packed rows and give the logits at every position that has a token to predict.

    Args:
        model: The lab model.
        batch: The packed rows.

    Returns:
        The logits and the tokens to predict, in reading order.
    """
    inner = model.model
    embeddings = inner.get_input_embeddings()(batch.ids)
    with sdpa_kernel(_QUICKEST):
        if batch.pixels is not None:
            features = torch.cat(list(inner.get_image_features(batch.pixels, return_dict=True).pooler_output))
            where = (batch.ids == model.config.image_token_id).unsqueeze(-1)
            embeddings = embeddings.masked_scatter(where, features.to(embeddings.dtype))
        states = inner.language_model(
            inputs_embeds=embeddings, attention_mask=batch.mask, position_ids=batch.positions, use_cache=False
        ).last_hidden_state
    is_answer = batch.labels != IGNORED
    return model.lm_head(states[is_answer]), batch.labels[is_answer]


def language_loss(
    model: LlavaForConditionalGeneration, batch: PackedBatch, sparsity: float = 0.0
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Predict the next token of every caption and answer.

    Args:
        model: The lab model.
        batch: The packed rows.
        sparsity: Weight of the mean absolute value of all language MLP neurons, added to the loss.

    Returns:
        The weighted mean loss in nats per token, and the share of tokens predicted right.
    """
    if sparsity > 0:
        with recorded_neurons(model) as activations:
            logits, tokens = packed_logits(model, batch)
        loss = sparsity * torch.stack([activation.float().abs().mean() for activation in activations]).mean()
    else:
        logits, tokens = packed_logits(model, batch)
        loss = torch.zeros(())
    weights = batch.weights[batch.labels != IGNORED]
    losses = nn.functional.cross_entropy(logits.float(), tokens, reduction="none")
    loss = loss + (weights * losses).sum() / weights.sum()
    return loss, (logits.argmax(dim=-1) == tokens).float().mean()


@contextmanager
def recorded_neurons(
    model: LlavaForConditionalGeneration,
) -> Iterator[list[Float[Tensor, "batch pos neuron"]]]:
    """Record the input of every language layer's down projection while a forward runs.

    Args:
        model: The lab model.

    Yields:
        A list that the forward fills, one entry per layer, gradients kept.
    """
    activations: list[Tensor] = []
    handles = [
        layer.mlp.down_proj.register_forward_pre_hook(lambda _, inputs: activations.append(inputs[0]))
        for layer in model.model.language_model.layers
    ]
    try:
        yield activations
    finally:
        for handle in handles:
            handle.remove()
