"""What training minimises: the tower's patch labels, and the next token of captions and answers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import LlavaForConditionalGeneration

from mmlens.lab.data import IGNORED, Packed
from mmlens.lab.world import COLORS, NOUNS, PLACES


class PatchHeads(nn.Module):
    """Linear read-outs that the tower is first trained with, and that are thrown away afterwards.

    Args:
        d_vision: Width of the tower.
    """

    def __init__(self, d_vision: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(d_vision)
        self.noun = nn.Linear(d_vision, 1 + len(NOUNS))
        self.color = nn.Linear(d_vision, 1 + len(COLORS))
        self.place = nn.Linear(d_vision, len(PLACES))


def tower_loss(
    model: LlavaForConditionalGeneration,
    heads: PatchHeads,
    pixels: Float[Tensor, "batch rgb height width"],
    nouns: Int[Tensor, "batch patch"],
    colors: Int[Tensor, "batch patch"],
    places: Int[Tensor, " batch"],
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Name noun and colour at every patch, and the place, from the layer that the projector reads.

    Args:
        model: The model whose tower is trained.
        heads: The read-outs.
        pixels: Normalised pictures.
        nouns: Per patch 0 for bare ground, else 1 + index in `NOUNS`.
        colors: Per patch 0 for bare ground, else 1 + index in `COLORS`.
        places: Index in `PLACES`.

    Returns:
        The loss in nats, and the share of object patches whose noun is named right.
    """
    states = model.model.vision_tower(pixels, output_hidden_states=True).hidden_states[-2]
    states = heads.norm(states[:, 1:].float())
    noun_logits = heads.noun(states).flatten(0, 1)
    # Three patches in four show bare ground; without the weight the tower first learns to see nothing.
    weight = torch.ones(noun_logits.shape[-1])
    weight[0] = 0.2
    loss = nn.functional.cross_entropy(noun_logits, nouns.flatten(), weight=weight)
    color_logits = heads.color(states).flatten(0, 1)
    loss = loss + nn.functional.cross_entropy(
        color_logits, colors.flatten(), weight=weight[: 1 + len(COLORS)]
    )
    loss = loss + 0.3 * nn.functional.cross_entropy(heads.place(states.mean(dim=1)), places)
    seen = nouns.flatten() > 0
    right = (noun_logits.argmax(dim=-1) == nouns.flatten())[seen].float().mean()
    return loss, right


def packed_logits(
    model: LlavaForConditionalGeneration, batch: Packed
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
    if batch.pixels is not None:
        features = torch.cat(list(inner.get_image_features(batch.pixels, return_dict=True).pooler_output))
        where = (batch.ids == model.config.image_token_id).unsqueeze(-1)
        embeddings = embeddings.masked_scatter(where, features.to(embeddings.dtype))
    # On CPUs the fused kernel's backward with a mask takes twice as long as plain matrix products.
    with sdpa_kernel(SDPBackend.MATH):
        states = inner.language_model(
            inputs_embeds=embeddings, attention_mask=batch.mask, position_ids=batch.positions, use_cache=False
        ).last_hidden_state
    asked = batch.labels != IGNORED
    return model.lm_head(states[asked]), batch.labels[asked]


def language_loss(
    model: LlavaForConditionalGeneration, batch: Packed, sparsity: float = 0.0
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
        with recorded_neurons(model) as recorded:
            logits, tokens = packed_logits(model, batch)
        loss = sparsity * torch.stack([each.float().abs().mean() for each in recorded]).mean()
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
    recorded: list[Tensor] = []
    handles = [
        layer.mlp.down_proj.register_forward_pre_hook(lambda _, inputs: recorded.append(inputs[0]))
        for layer in model.model.language_model.layers
    ]
    try:
        yield recorded
    finally:
        for handle in handles:
            handle.remove()
