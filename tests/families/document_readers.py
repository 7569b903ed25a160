"""Tiny models that read documents, from Qianfan-OCR to Kosmos-2.5; DeepSeek-VL with two towers; InstructBLIP for frames."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
import transformers
from tokenizers import AddedToken
from transformers.image_utils import SizeDict
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

from mmlens.architectures.families.deepseek_ocr2 import UNLIMITED_OCR
from mmlens.architectures.families.internvl import QIANFAN_OCR
from mmlens.inputs.processing import ComposedProcessor
from mmlens.models.hooked import HookedMultimodal
from tests.tiny import BOX, QFORMER, TEXT, VISION, VOCAB, Tiny, ending, redraw, tokenizer

_MARKS = ["<IMG_CONTEXT>", "<img>", "</img>"]
_TILE_MARKS = [f"<row_{row}_col_{column}>" for row in range(1, 5) for column in range(1, 5)]
_MARKS += ["<fake_token_around_image>", "<global-img>", *_TILE_MARKS]
_TOKENS = {
    "vocab_size": len(VOCAB) + len(_MARKS),
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_TEXT = {**TEXT, **_TOKENS}


def qianfan_ocr() -> HookedMultimodal:
    """Qianfan-OCR: the tower of InternVL under other names, a Qwen 3."""
    config = transformers.QianfanOCRConfig(
        vision_config=VISION,
        text_config={"model_type": "qwen3", **_TEXT, "head_dim": 8},
        image_token_id=len(VOCAB),
    )
    model = redraw(transformers.QianfanOCRForConditionalGeneration(config))
    pictures = transformers.GotOcr2ImageProcessorPil(size={"height": 32, "width": 32}, max_patches=4, resample=BOX)
    words = tokenizer("<IMG_CONTEXT>", more=_MARKS)
    return HookedMultimodal.from_hf(model, ComposedProcessor(pictures, words, QIANFAN_OCR, model.config))


def granite_docling() -> HookedMultimodal:
    """Granite Docling: squares of 2 x 2 patches, mergers behind the first two blocks of three."""
    config = transformers.GraniteDoclingConfig(
        vision_config={**VISION, "out_hidden_size": 32, "scale_factor": 2, "deepstack_visual_indexes": [0, 1]},
        text_config={**_TEXT, "attention_multiplier": 0.35},
        image_token_id=VOCAB["<image>"],
        pad_token_id=0,
        tie_word_embeddings=False,
    )
    model = redraw(transformers.GraniteDoclingForConditionalGeneration(config))
    pictures = transformers.GraniteDoclingImageProcessorPil(
        size={"height": 32, "width": 32}, max_patches=4, resample=BOX
    )
    words = tokenizer(more=_MARKS)
    return HookedMultimodal.from_hf(model, transformers.GraniteDoclingProcessor(pictures, words, image_seq_len=4))


def deepseek_vl_hybrid() -> HookedMultimodal:
    """DeepSeek-VL with a second tower, which sees pictures twice as large: one of its three blocks sees all of them."""
    image = "<image_placeholder>"
    words = tokenizer(image, [*_MARKS, image])
    config = transformers.DeepseekVLHybridConfig(
        vision_config={"model_type": "siglip_vision_model", "vision_use_head": False, **VISION},
        high_res_vision_config={
            "hidden_size": 16,
            "mlp_dim": 28,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "image_size": 64,
            "patch_size": 8,
            "window_size": 3,
            "global_attn_indexes": [1],
            "output_channels": 6,
        },
        text_config={"model_type": "llama", **_TEXT, "vocab_size": len(words)},
        image_token_id=words.image_token_id,
        tie_word_embeddings=False,
    )
    model = ending(transformers.DeepseekVLHybridForConditionalGeneration(config))
    pictures = transformers.DeepseekVLHybridImageProcessorPil(
        size={"height": 32, "width": 32}, high_res_size={"height": 64, "width": 64}, min_size=4, resample=BOX
    )
    processor = transformers.DeepseekVLHybridProcessor(pictures, words, num_image_tokens=16)
    return HookedMultimodal.from_hf(model, processor)


_SAM = {
    "hidden_size": 16,
    "mlp_dim": 28,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "window_size": 4,
    "global_attn_indexes": [1],
    "output_channels": 6,
}
_MIXTURE = {
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 12,
    "mlp_layer_types": ["dense", "sparse", "sparse"],
}


def unlimited_ocr() -> HookedMultimodal:
    """Unlimited-OCR: eight patches a side, which give four rows.

    Its image processor runs on torchvision alone; without crops it does what DeepSeek-OCR 2's does.
    """
    config = transformers.UnlimitedOcrConfig(
        vision_config={
            "sam_config": {**_SAM, "image_size": 64, "patch_size": 8, "downsample_channels": [10, 24]},
            "encoder_config": {**VISION, "num_hidden_layers": 2},
        },
        text_config={**_TEXT, **_MIXTURE},
        image_token_id=VOCAB["<image>"],
    )
    model = redraw(transformers.UnlimitedOcrForConditionalGeneration(config))
    pictures = transformers.DeepseekOcr2ImageProcessorPil(size={"height": 64, "width": 64}, tile_size=64)
    family = replace(UNLIMITED_OCR, expand=lambda config, tensors: [2 * 3 + 1] * len(tensors["pixel_values"]))
    return HookedMultimodal.from_hf(model, ComposedProcessor(pictures, tokenizer(more=_MARKS), family, model.config))


def deepseek_ocr2() -> HookedMultimodal:
    """DeepSeek-OCR 2: six patches a side, which give nine rows; the queries are 144 whatever the model's size."""
    config = transformers.DeepseekOcr2Config(
        vision_config={
            "sam_config": {**_SAM, "image_size": 48, "patch_size": 8, "downsample_channels": [10, 24]},
            "encoder_config": {**_TEXT, "hidden_size": 24, "intermediate_size": 28, "num_hidden_layers": 2},
        },
        text_config={**_TEXT, **_MIXTURE},
        image_token_id=VOCAB["<image>"],
    )
    model = redraw(transformers.DeepseekOcr2ForConditionalGeneration(config))
    pictures = transformers.DeepseekOcr2ImageProcessorPil(size={"height": 48, "width": 48}, tile_size=48)
    words = tokenizer(more=_MARKS)
    # the processor counts a row for every fourth pixel a side: 144, as there are queries
    processor = transformers.DeepseekOcr2Processor(pictures, words, patch_size=4, downsample_ratio=1)
    return HookedMultimodal.from_hf(model, processor)


class _SteadyPictures(transformers.Kosmos2_5ImageProcessorPil):
    """Scales all pictures alike, not each by its own mean and deviation, so that painting moves single patches."""

    def normalize(self, image: np.ndarray, *args: Any, **options: Any) -> np.ndarray:
        """Pixels from -2 to 2."""
        return (image.astype(np.float32) - 127.5) / 64


def kosmos2_5() -> HookedMultimodal:
    """Kosmos-2.5 with four latent queries."""
    marks = ["<s>", "</image>"]
    config = transformers.Kosmos2_5Config(
        vision_config={
            "hidden_size": 24,
            "patch_embed_hidden_size": 3 * 8 * 8,
            "intermediate_size": 40,
            "head_dim": 12,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "max_num_patches": 20,
        },
        text_config={
            "embed_dim": 32,
            "ffn_dim": 48,
            "layers": 3,
            "attention_heads": 4,
            **_TOKENS,
            "vocab_size": len(VOCAB) + len(marks),
        },
        latent_query_num=4,
        tie_word_embeddings=False,
    )
    model = redraw(transformers.Kosmos2_5ForConditionalGeneration(config))
    words = tokenizer("<s>", more=marks)
    words.boi_token, words.eoi_token = "<image>", "</image>"
    pictures = _SteadyPictures(patch_size=SizeDict(height=8, width=8), max_patches=18)
    processor = transformers.Kosmos2_5Processor(pictures, words, num_image_tokens=4)
    options: dict[str, Any] = {**processor.images_kwargs, "max_patches": 18}
    vars(processor)["images_kwargs"] = options
    return HookedMultimodal.from_hf(model, processor)


class _Frames:
    """InstructBLIP's processor for pictures, each of which is given to the model as its only frame."""

    def __init__(self, inner: transformers.InstructBlipProcessor) -> None:
        self.inner = inner
        self.image_processor, self.tokenizer = inner.image_processor, inner.tokenizer

    def __call__(self, **options: Any) -> dict[str, torch.Tensor]:
        """As the inner one, with an axis of frames."""
        made = dict(self.inner(**options))
        return made | {"pixel_values": made["pixel_values"][:, None]}


def instructblipvideo() -> HookedMultimodal:
    """InstructBlipVideo with one frame per sample."""
    config = transformers.InstructBlipVideoConfig(
        vision_config=VISION,
        qformer_config={**QFORMER, "vocab_size": len(VOCAB), "max_position_embeddings": 64, "pad_token_id": 0},
        text_config={"model_type": "llama", **_TEXT},
        num_query_tokens=4,
        video_token_index=VOCAB["<image>"],
    )
    model = redraw(transformers.InstructBlipVideoForConditionalGeneration(config))
    words = tokenizer()
    words.image_token = AddedToken("<image>", normalized=False, special=True)  # this processor asks for its .content
    pictures = BlipImageProcessorPil(size={"height": 32, "width": 32})
    processor = transformers.InstructBlipProcessor(pictures, words, tokenizer(), num_query_tokens=4)
    return HookedMultimodal.from_hf(model, _Frames(processor))


TINY = [
    Tiny("qianfan_ocr", qianfan_ocr, sizes=((64, 64), (32, 96))),
    Tiny("granite_docling", granite_docling, sizes=((64, 64), (32, 96))),
    Tiny("deepseek_vl_hybrid", deepseek_vl_hybrid, sizes=((64, 64), (64, 48))),
    Tiny("deepseek_ocr2", deepseek_ocr2, has_places=False, sizes=((48, 48), (48, 32))),
    Tiny("kosmos2_5", kosmos2_5, has_places=False, sizes=((32, 32), (16, 64)), several=False),
    Tiny("unlimited_ocr", unlimited_ocr, sizes=((64, 64), (64, 48))),
    Tiny("instructblipvideo", instructblipvideo, has_places=False, several=False),
]
