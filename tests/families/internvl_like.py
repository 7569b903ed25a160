"""Tiny models whose pictures are stretched to a canvas of tiles: InternVL, Aya Vision, Command A Vision; GOT-OCR."""

from dataclasses import replace
from typing import Any

import transformers

from mmlens.architectures.families.aya_vision import COHERE2_VISION
from mmlens.architectures.families.internvl import INTERNVL
from mmlens.inputs.patch_geometry.tile import canvas_tokens
from mmlens.inputs.processing import ComposedProcessor
from mmlens.models.hooked import HookedMultimodal
from tests.tiny import BOX, TEXT, VISION, VOCAB, Tiny, redraw, tokenizer

_MARKS = [
    "<IMG_CONTEXT>",
    "<img>",
    "</img>",
    "<|START_OF_IMG|>",
    "<|END_OF_IMG|>",
    "<|IMG_PATCH|>",
    "<|BREAK|>",
    "<imgpad>",
]
_TEXT = {**TEXT, "vocab_size": len(VOCAB) + len(_MARKS), "max_position_embeddings": 512}
#: Blocks of the language model that see all tokens, and blocks that see the last few.
_COHERE2 = {
    "model_type": "cohere2",
    **_TEXT,
    "sliding_window": 16,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
}


def _id(mark: str) -> int:
    return len(VOCAB) + _MARKS.index(mark)


def _pictures(resample: int = BOX, **options: Any) -> Any:
    return transformers.GotOcr2ImageProcessorPil(
        size={"height": 32, "width": 32}, max_patches=4, resample=resample, **options
    )


def internvl(norm: str = "layer_norm", resample: int = BOX) -> HookedMultimodal:
    """InternVL with layer norms and biases, or as its largest checkpoints with RMS norms, also of queries and keys."""
    rms = norm == "rms_norm"
    config = transformers.InternVLConfig(
        vision_config={**VISION, "norm_type": norm, "use_qk_norm": rms, "attention_bias": not rms},
        text_config={"model_type": "qwen2", **_TEXT},
        image_token_id=_id("<IMG_CONTEXT>"),
        vision_feature_layer=-2 if rms else -1,
        tie_word_embeddings=False,
    )
    model = redraw(transformers.InternVLForConditionalGeneration(config))
    words = tokenizer("<IMG_CONTEXT>", more=_MARKS)
    return HookedMultimodal.from_hf(model, ComposedProcessor(_pictures(resample), words, INTERNVL, model.config))


def aya_vision() -> HookedMultimodal:
    """Aya Vision: a gated projector, parallel blocks, some of which see the last 16 tokens alone."""
    config = transformers.AyaVisionConfig(
        vision_config={"model_type": "siglip_vision_model", **VISION},
        text_config=_COHERE2,
        image_token_index=_id("<|IMG_PATCH|>"),
        alignment_intermediate_size=40,
    )
    model = redraw(transformers.AyaVisionForConditionalGeneration(config))
    processor = transformers.AyaVisionProcessor(
        image_processor=_pictures(),
        tokenizer=tokenizer(more=_MARKS),
        patch_size=8,
        img_size=32,
        downsample_factor=2,
    )
    return HookedMultimodal.from_hf(model, processor)


def _tiles_with_breaks(config: Any, tensors: dict[str, Any]) -> list[str]:
    """The text that stands for each picture: the tokens of every tile with a line break behind them."""
    one = canvas_tokens(merge=lambda c: c.downsample_factor)(config, {**tensors, "num_patches": [1]})[0]
    tile = "<|IMG_PATCH|>" * one + "<|BREAK|>"
    return [f"<|START_OF_IMG|>{tile * int(count)}<|END_OF_IMG|>" for count in tensors["num_patches"]]


def cohere2_vision() -> HookedMultimodal:
    """Command A Vision, with a processor composed here: its own image processor needs torchvision."""
    config = transformers.Cohere2VisionConfig(
        vision_config={"model_type": "siglip_vision_model", **VISION},
        text_config=_COHERE2,
        image_token_id=_id("<|IMG_PATCH|>"),
        alignment_intermediate_size=40,
    )
    model = redraw(transformers.Cohere2VisionForConditionalGeneration(config))
    words = tokenizer("<|IMG_PATCH|>", more=_MARKS)
    family = replace(COHERE2_VISION, expand=_tiles_with_breaks, for_counting=("num_patches",))
    processor = ComposedProcessor(_pictures(crop_to_patches=True), words, family, model.config)
    return HookedMultimodal.from_hf(model, processor)


def got_ocr2() -> HookedMultimodal:
    """GOT-OCR 2.0: windows of three by three patches on a raster of eight by eight, and one block that sees all."""
    config = transformers.GotOcr2Config(
        vision_config={
            "hidden_size": 24,
            "output_channels": 12,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "image_size": 64,
            "patch_size": 8,
            "window_size": 3,
            "global_attn_indexes": [1],
            "mlp_dim": 40,
        },
        text_config={"model_type": "qwen2", **_TEXT},
        image_token_index=_id("<imgpad>"),
    )
    model = redraw(transformers.GotOcr2ForConditionalGeneration(config))
    pictures = transformers.GotOcr2ImageProcessorPil(size={"height": 64, "width": 64})
    processor = transformers.GotOcr2Processor(pictures, tokenizer("<imgpad>", more=_MARKS))
    processor.num_image_tokens = 4
    return HookedMultimodal.from_hf(model, processor)


TINY = [
    # two tiles and the whole, and a picture that is not cut
    Tiny("internvl", internvl, sizes=((32, 64), (32, 32))),
    # resized with a cubic filter: reach is two processed pixels on each side, of up to 2.2 pixels of the picture
    Tiny("internvl_rms", lambda: internvl("rms_norm", 3), sizes=((40, 70), (60, 64)), reach=7),
    Tiny("aya_vision", aya_vision, sizes=((64, 32), (64, 64))),
    Tiny("cohere2_vision", cohere2_vision, sizes=((32, 32), (64, 64))),
    Tiny("got_ocr2", got_ocr2, sizes=((64, 64), (64, 64))),
]
