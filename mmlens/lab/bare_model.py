"""The bare model that `weight_built` plants into: weights set by hand, no training.

The picture has nine patches of one pure colour each. The tower passes on every patch's colour and place, the
projector puts both into named coordinates of the language model's residual stream, and the language model,
small noise apart, does nothing with them.
"""

from __future__ import annotations

import numpy as np
import torch
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)

from mmlens.lab.architecture import CHAT_TEMPLATE, SPECIALS, greedy_generation, make_tokenizer, special_ids

GRID, PATCH = 3, 8
SIDE = GRID * PATCH
PATCHES = GRID * GRID
PURE: dict[str, tuple[int, int, int]] = {
    "black": (0, 0, 0),
    "red": (255, 0, 0),
    "green": (0, 255, 0),
    "blue": (0, 0, 255),
    "yellow": (255, 255, 0),
    "white": (255, 255, 255),
}
WORDS = ("user", "assistant", ":", "what", "yes", "no", *PURE)

# What each coordinate of the language model's residual stream means.
CONST, ASK, END = 0, 1, 2
PLACE = slice(3, 3 + PATCHES)
COLOR = slice(12, 15)  # of the patch that a token stands for: red, green, blue, each -1 or 1
ARRIVED = slice(15, 18)  # the same, as carried to the last position
SAID = slice(18, 26)  # one coordinate per word that can be answered
SPARE = slice(26, 32)
ANSWERS = ("yes", "no", *PURE)
D_MODEL, HEADS, D_HEAD, NEURONS, LAYERS = 32, 4, 8, 16, 3
NOISE = 0.01


def bare_processor() -> LlavaProcessor:
    """Make the processor for pictures of 24 x 24 pixels, with pixel values from -1 to 1."""
    half = [0.5, 0.5, 0.5]
    images = CLIPImageProcessorPil(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}, image_mean=half, image_std=half
    )
    return LlavaProcessor(
        image_processor=images,
        tokenizer=make_tokenizer(WORDS),
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )


def _config() -> LlavaConfig:
    specials = list(SPECIALS.values())
    vision = CLIPVisionConfig(
        hidden_size=6 + 2 * PATCHES,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=SIDE,
        patch_size=PATCH,
        projection_dim=24,
    )
    text = LlamaConfig(
        vocab_size=len(specials) + len(WORDS),
        hidden_size=D_MODEL,
        intermediate_size=NEURONS,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        rope_parameters={"rope_type": "default", "rope_theta": 1e8},
        max_position_embeddings=64,
        tie_word_embeddings=False,
        **special_ids(),
    )
    return LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=specials.index("<image>"),
        image_seq_length=PATCHES,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        tie_word_embeddings=False,
    )


@torch.no_grad()
def bare_model(generator: torch.Generator) -> LlavaForConditionalGeneration:
    """Make the model whose tower and projector pass on colours and places, and that says nothing yet.

    Args:
        generator: Draws the noise in the language model's weights.

    Returns:
        The model in float32, in evaluation mode.
    """
    with torch.random.fork_rng(devices=[]):
        model = LlavaForConditionalGeneration(_config())
    specials = list(SPECIALS.values())
    model.generation_config = greedy_generation(4)
    _build_tower(model)
    _build_projector(model)
    language = model.model.language_model
    for name, parameter in language.named_parameters():
        if "norm" not in name:
            parameter.copy_(NOISE * torch.randn(parameter.shape, generator=generator))
    entries = specials + list(WORDS)
    embedding = language.embed_tokens.weight
    embedding.zero_()
    embedding[:, CONST] = 1.0
    embedding[entries.index(":"), ASK] = 1.0
    unembedding = model.lm_head.weight
    unembedding.zero_()
    for number, word in enumerate(ANSWERS):
        embedding[entries.index(word), END] = 2.0
        unembedding[entries.index(word), SAID.start + number] = 4.0
    unembedding[specials.index("<eos>"), END] = 8.0
    return model.eval()


def _build_tower(model: LlavaForConditionalGeneration) -> None:
    """Every patch becomes (colour, -colour, place, -place): mean zero, one length, so norms only scale."""
    tower = model.model.vision_tower
    for parameter in tower.parameters():
        parameter.zero_()
    embeddings = tower.embeddings
    for channel in range(3):
        embeddings.patch_embedding.weight[channel, channel] = 1 / PATCH**2
        embeddings.patch_embedding.weight[3 + channel, channel] = -1 / PATCH**2
    for patch in range(PATCHES):  # position 0 is the class token's
        embeddings.position_embedding.weight[1 + patch, 6 + patch] = 1.0
        embeddings.position_embedding.weight[1 + patch, 6 + PATCHES + patch] = -1.0
    for module in tower.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.weight.fill_(1.0)


def _build_projector(model: LlavaForConditionalGeneration) -> None:
    """Undo the norm's scale; gelu(x) - gelu(-x) = x hands the signed colours through the non-linearity."""
    projector = model.model.multi_modal_projector
    for parameter in projector.parameters():
        parameter.zero_()
    width = 6 + 2 * PATCHES
    scale = float(np.sqrt(8 / width))  # six colour coordinates and two of place, each 1, before the norm
    for channel in range(3):
        projector.linear_1.weight[channel, channel] = scale
        projector.linear_1.weight[3 + channel, 3 + channel] = scale
        projector.linear_2.weight[COLOR.start + channel, channel] = 1.0
        projector.linear_2.weight[COLOR.start + channel, 3 + channel] = -1.0
    for patch in range(PATCHES):
        # gelu(8) is 8 to the last bit, so a place arrives as exactly one.
        projector.linear_1.weight[6 + patch, 6 + patch] = 8 * scale
        projector.linear_2.weight[PLACE.start + patch, 6 + patch] = 1 / 8
    projector.linear_2.bias[CONST] = 1.0
