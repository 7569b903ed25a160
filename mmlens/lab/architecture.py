"""The lab model before training: its configuration, its tokenizer, its processor and fresh weights.

Everything is Hugging Face's own: a CLIP tower, LLaVA's two-layer projector, a Llama with a gated MLP.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    GenerationConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from mmlens.lab.language import vocabulary
from mmlens.lab.world import CANVAS

SPECIALS = {"pad": "<pad>", "bos": "<bos>", "eos": "<eos>", "unk": "<unk>", "image": "<image>"}

CHAT_TEMPLATE = (
    "{{ '<bos>' }}"
    "{% for message in messages %}"
    "{{ message['role'] + ' : ' }}"
    "{% if message['content'] is string %}{{ message['content'] + ' ' }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<image> ' }}{% else %}{{ part['text'] + ' ' }}{% endif %}"
    "{% endfor %}{% endif %}"
    "{% if message['role'] == 'assistant' %}{{ '<eos>' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant : ' }}{% endif %}"
)
"""Gives "<bos> user : <image> describe the image assistant :"; `data` packs its rows to the same pattern."""


@dataclass(frozen=True)
class Size:
    """How large a model is.

    Attributes:
        patch: Side of an image patch in pixels; the picture has (96 / patch) squared image tokens.
        d_vision: Width of the tower.
        vision_layers: Layers of the tower; the projector reads what enters the last one.
        vision_heads: Attention heads per tower layer.
        d_model: Width of the language model.
        layers: Layers of the language model.
        heads: Attention heads per language layer.
        neurons: MLP neurons per language layer.
        activation: Name of the language model's MLP gate function.
    """

    patch: int = 12
    d_vision: int = 128
    vision_layers: int = 5
    vision_heads: int = 4
    d_model: int = 192
    layers: int = 6
    heads: int = 6
    neurons: int = 768
    activation: str = "silu"


LAB = Size()
TINY = Size(24, 16, 3, 2, 16, 2, 2, 24)
"""For tests of the training code: learns nothing, runs in milliseconds."""


def make_tokenizer(words: tuple[str, ...] | None = None) -> PreTrainedTokenizerFast:
    """Make the word-level tokenizer: lower case, one token per word or mark, five special tokens.

    Args:
        words: The vocabulary after the special tokens; by default every word of the lab's language.

    Returns:
        A fast tokenizer that pads on the left, as generation needs.
    """
    specials = list(SPECIALS.values())
    entries = specials + list(vocabulary() if words is None else words)
    model = models.WordLevel({word: index for index, word in enumerate(entries)}, unk_token="<unk>")
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        extra_special_tokens={"image_token": "<image>"},
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=512,
    )


def make_processor(size: Size = LAB, words: tuple[str, ...] | None = None) -> LlavaProcessor:
    """Make the processor: CLIP's image processor in its PIL version, the tokenizer, the chat template.

    Args:
        size: The model's size; decides the number of image tokens.
        words: See `make_tokenizer`.

    Returns:
        A processor for pictures of any size; they are scaled and cropped to 96 x 96 pixels.
    """
    images = CLIPImageProcessorPil(size={"shortest_edge": CANVAS}, crop_size={"height": CANVAS, "width": CANVAS})
    return LlavaProcessor(
        image_processor=images,
        tokenizer=make_tokenizer(words),
        patch_size=size.patch,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )


def make_config(size: Size = LAB, vocab_size: int | None = None) -> LlavaConfig:
    """Make the model's configuration.

    Args:
        size: The model's size.
        vocab_size: Rows of the embedding; by default the lab's language and the special tokens.

    Returns:
        A LLaVA configuration with tied embeddings that reads the tower's last layer but one.
    """
    specials = list(SPECIALS.values())
    vision = CLIPVisionConfig(
        hidden_size=size.d_vision,
        intermediate_size=4 * size.d_vision,
        num_hidden_layers=size.vision_layers,
        num_attention_heads=size.vision_heads,
        image_size=CANVAS,
        patch_size=size.patch,
        projection_dim=size.d_vision,
    )
    text = LlamaConfig(
        vocab_size=len(specials) + len(vocabulary()) if vocab_size is None else vocab_size,
        hidden_size=size.d_model,
        intermediate_size=size.neurons,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.heads,
        hidden_act=size.activation,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        **special_ids(),
    )
    return LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=specials.index("<image>"),
        image_seq_length=(CANVAS // size.patch) ** 2,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        tie_word_embeddings=True,
    )


def make_model(size: Size = LAB, seed: int = 0, vocab_size: int | None = None) -> LlavaForConditionalGeneration:
    """Make an untrained model in float32.

    Args:
        size: The model's size.
        seed: Decides the first weights; the global random state is left as it was.
        vocab_size: See `make_config`.

    Returns:
        The model in evaluation mode, with a generation configuration that stops at <eos>.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlavaForConditionalGeneration(make_config(size, vocab_size))
    model.generation_config = greedy_generation(40)
    return model.eval()


def special_ids() -> dict[str, Any]:
    """The ids of padding, begin and end, in the words of configurations."""
    specials = list(SPECIALS.values())
    return {f"{name}_token_id": specials.index(f"<{name}>") for name in ("pad", "bos", "eos")}


def greedy_generation(max_new_tokens: int) -> GenerationConfig:
    """A generation configuration that takes the best token and stops at <eos>."""
    return GenerationConfig(**special_ids(), do_sample=False, max_new_tokens=max_new_tokens)
