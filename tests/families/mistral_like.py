"""Tiny models of families that pack or tile pictures: Mistral 3, LightOnOCR, Llama 4."""

import torch
from PIL import Image
from transformers import (
    LightOnOcrConfig,
    LightOnOcrForConditionalGeneration,
    LightOnOcrProcessor,
    Llama4Config,
    Llama4ForConditionalGeneration,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
)
from transformers.models.pixtral.image_processing_pil_pixtral import PixtralImageProcessorPil

from mmlens.architectures.families.mistral3 import MISTRAL3
from mmlens.inputs.processing import ComposedProcessor
from mmlens.models.hooked import HookedMultimodal
from tests.tile_processor import TileProcessor, pixels_of, tiles_of
from tests.tiny import TEXT, VOCAB, Tiny, ending, tokenizer

ROW_MARKS = ("[IMG]", "[IMG_BREAK]", "[IMG_END]")
_TILES = (
    "<|image|>",
    "<|image_start|>",
    "<|image_end|>",
    "<|patch|>",
    "<|tile_x_separator|>",
    "<|tile_y_separator|>",
)

_TEXT = {**TEXT, "head_dim": 8, "max_position_embeddings": 512}
PIXTRAL = {
    "model_type": "pixtral",
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 64,
    "patch_size": 8,
    "rope_parameters": {"rope_type": "axial", "rope_theta": 10000.0},
}


def mistral3() -> HookedMultimodal:
    """Mistral 3, read one block before the last: rows of tokens end with a token of their own."""
    words = tokenizer("[IMG]", ROW_MARKS)
    config = Mistral3Config(
        vision_config=PIXTRAL,
        text_config={"model_type": "mistral", **_TEXT, "vocab_size": len(words)},
        image_token_index=words.image_token_id,
        vision_feature_layer=-2,
        spatial_merge_size=2,
        tie_word_embeddings=False,
    )
    model = ending(Mistral3ForConditionalGeneration(config))
    image_processor = PixtralImageProcessorPil(size={"longest_edge": 64}, patch_size={"height": 8, "width": 8})
    return HookedMultimodal.from_hf(model, ComposedProcessor(image_processor, words, MISTRAL3, model.config))


def lighton_ocr() -> HookedMultimodal:
    """LightOnOCR: the same tower in front of a Qwen 3."""
    words = tokenizer("<|image_pad|>", ROW_MARKS)
    words.image_break_token, words.image_end_token = ROW_MARKS[1:]
    words.image_break_token_id, words.image_end_token_id = words.convert_tokens_to_ids(list(ROW_MARKS[1:]))
    config = LightOnOcrConfig(
        vision_config=PIXTRAL,
        text_config={"model_type": "qwen3", **_TEXT, "vocab_size": len(words)},
        image_token_id=VOCAB["<|image_pad|>"],
        spatial_merge_size=2,
        tie_word_embeddings=False,
    )
    image_processor = PixtralImageProcessorPil(size={"longest_edge": 64}, patch_size={"height": 16, "width": 16})
    processor = LightOnOcrProcessor(image_processor, words, patch_size=8, spatial_merge_size=2)
    return HookedMultimodal.from_hf(ending(LightOnOcrForConditionalGeneration(config)), processor)


class _Tiles:
    """What Llama 4's image processor does for pictures of whole tiles."""

    def __init__(self) -> None:
        self.size = {"height": 32, "width": 32}
        self.resize_to_max_canvas = False

    def __call__(self, images: list[Image.Image], return_tensors: str) -> dict[str, torch.Tensor]:
        tiles: list[Image.Image] = []
        for image in images:
            own = tiles_of(image, 32)
            tiles += own if len(own) == 1 else [*own, image.resize((32, 32), Image.Resampling.BOX)]
        return {"pixel_values": torch.stack([pixels_of(tile) for tile in tiles]).permute(0, 3, 1, 2)}


def _marked(image: Image.Image) -> str:
    """The text of a picture: tokens between its tiles, and the whole behind them."""
    rows, columns, tile = image.height // 32, image.width // 32, "<|patch|>" * 4
    row = "<|tile_x_separator|>".join([tile] * columns) + "<|tile_y_separator|>"
    return f"<|image_start|>{row * rows if rows * columns > 1 else ''}<|image|>{tile}<|image_end|>"


def llama4() -> HookedMultimodal:
    """Llama 4: dense and sparse layers, chunks of 16 tokens in all layers but one."""
    words = tokenizer("<|image|>", _TILES)
    config = Llama4Config(
        vision_config={
            "hidden_size": 24,
            "intermediate_size": 96,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "image_size": 32,
            "patch_size": 8,
            "vision_output_dim": 28,
            "projector_input_dim": 28,
            "projector_output_dim": 28,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        },
        text_config={
            **_TEXT,
            "vocab_size": len(words),
            "intermediate_size_mlp": 40,
            "num_local_experts": 4,
            "moe_layers": [1, 2],
            "no_rope_layers": [1, 0, 1],
            "attention_chunk_size": 16,
        },
        boi_token_index=words.convert_tokens_to_ids("<|image_start|>"),
        eoi_token_index=words.convert_tokens_to_ids("<|image_end|>"),
        image_token_index=words.convert_tokens_to_ids("<|patch|>"),
    )
    model = ending(Llama4ForConditionalGeneration(config))
    return HookedMultimodal.from_hf(model, TileProcessor(words, _Tiles(), "<|image|>", _marked))


_SIZES = ((32, 64), (48, 32))

TINY = [
    Tiny("mistral3", mistral3, sizes=_SIZES),
    Tiny("lighton_ocr", lighton_ocr, sizes=_SIZES),
    Tiny("llama4", llama4, sizes=((64, 64), (32, 64))),
]
