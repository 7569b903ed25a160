"""How large the language model's and the projector's weights are before training."""

from __future__ import annotations

import torch
from torch import nn
from transformers import LlavaForConditionalGeneration
from transformers.models.llava.modeling_llava import LlavaMultiModalProjector


@torch.no_grad()
def scale_to_width(model: LlavaForConditionalGeneration, seed: int = 0) -> None:
    """Draw the weights anew with a spread that fits the layers' widths.

    A fixed spread of 0.02 suits layers some thousand wide. At a width of 192 it makes every attention score
    and every branch of the residual stream start near zero, and training slow. Here each matrix has spread
    1 / sqrt(inputs), and what writes into the residual stream is divided by the square root of the number of
    branches.

    Args:
        model: An untrained model, changed in place; its tower is left as it is.
        seed: Decides the weights.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(layer: nn.Linear | nn.Embedding, gain: float = 1.0) -> None:
        spread = gain / layer.weight.shape[1] ** 0.5
        layer.weight.copy_(spread * torch.randn(layer.weight.shape, generator=generator))

    language, projector = model.model.language_model, model.model.multi_modal_projector
    branch = (2 * len(language.layers)) ** -0.5
    draw(language.embed_tokens)
    for block in language.layers:
        attention, mlp = block.self_attn, block.mlp
        for layer in (attention.q_proj, attention.k_proj, attention.v_proj, mlp.gate_proj, mlp.up_proj):
            draw(layer)
        draw(attention.o_proj, branch)
        draw(mlp.down_proj, branch)
    draw(projector.linear_1)
    # Its output takes the place of word embeddings and starts about as long as they are.
    draw(projector.linear_2, 2 / projector.linear_2.in_features**0.5)


@torch.no_grad()
def draw_projector(projector: LlavaMultiModalProjector, length: float, seed: int) -> None:
    """Draw a projector's weights so that what it writes starts about as long as word embeddings.

    Args:
        projector: Changed in place.
        length: The embeddings' mean norm.
        seed: Decides the weights.
    """
    generator = torch.Generator().manual_seed(seed)
    for layer, gain in (
        (projector.linear_1, 1.0),
        (projector.linear_2, 2.0 * length / projector.linear_2.out_features**0.5),
    ):
        spread = gain / layer.in_features**0.5
        layer.weight.copy_(spread * torch.randn(layer.weight.shape, generator=generator))
        layer.bias.zero_()
