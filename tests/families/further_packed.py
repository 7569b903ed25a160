"""Tiny models of further families with a packed tower: the thinkers of Qwen-Omni, and others."""

from typing import Any

from torch import nn
from transformers import (
    Ernie4_5_VLMoeConfig,
    Ernie4_5_VLMoeForConditionalGeneration,
    Glm46VForConditionalGeneration,
    GlmgaConfig,
    Qwen2_5OmniThinkerConfig,
    Qwen2_5OmniThinkerForConditionalGeneration,
    Qwen3OmniMoeThinkerConfig,
    Qwen3OmniMoeThinkerForConditionalGeneration,
)
from transformers.models.ernie4_5_vl_moe.image_processing_pil_ernie4_5_vl_moe import Ernie4_5_VLMoeImageProcessorPil
from transformers.models.glmga.image_processing_pil_glmga import GlmgaImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from mmlens.models.families.ernie4_5_vl import ERNIE4_5_VL
from mmlens.models.families.glm4v import GLM4V
from mmlens.models.families.qwen_omni import QWEN2_5_OMNI, QWEN3_OMNI
from mmlens.models.family import Family
from mmlens.models.hooked import HookedMultimodal
from mmlens.models.processing import ComposedProcessor
from tests.families.qwen_like import ending, rope
from tests.tiny import VOCAB, Tiny, tokenizer

_TEXT: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": len(VOCAB),
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_VISION: dict[str, Any] = {
    "depth": 3,
    "hidden_size": 24,
    "intermediate_size": 40,
    "out_hidden_size": 32,
    "num_heads": 2,
    "patch_size": 8,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
}
_AUDIO: dict[str, Any] = {
    "d_model": 16,
    "encoder_layers": 1,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 16,
    "num_mel_bins": 8,
    "output_dim": 32,
    "max_source_positions": 20,
    "n_window": 4,
}
_SIZES = ((32, 32), (48, 80))


def _hooked(
    model: nn.Module,
    family: Family,
    token: str = "<|image_pad|>",
    more: tuple[str, ...] = (),
    pictures: Any = None,
) -> HookedMultimodal:
    """The model with an image processor, Qwen2-VL's by default."""
    drawn = ending(model)
    if pictures is None:
        pictures = Qwen2VLImageProcessorPil(
            patch_size=8, merge_size=2, size={"shortest_edge": 256, "longest_edge": 4096}
        )
    return HookedMultimodal.from_hf(
        drawn, ComposedProcessor(pictures, tokenizer(token, more=more), family, drawn.config)
    )


def qwen2_5_omni() -> HookedMultimodal:
    """The thinker of Qwen2.5-Omni: windows in the first and last vision block."""
    more = ("<|vision_bos|>", "<|IMAGE|>", "<|vision_eos|>", "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>")
    ids = {word: len(VOCAB) + number for number, word in enumerate(more)}
    config = Qwen2_5OmniThinkerConfig(
        audio_config=_AUDIO,
        vision_config={**_VISION, "window_size": 32, "fullatt_block_indexes": [1]},
        text_config={
            **_TEXT,
            "vocab_size": len(VOCAB) + len(more),
            "rope_parameters": rope(1, 1, 2),
            "tie_word_embeddings": False,
        },
        image_token_index=ids["<|IMAGE|>"],
        video_token_index=VOCAB["<|video_pad|>"],
        audio_token_index=ids["<|AUDIO|>"],
        audio_start_token_id=ids["<|audio_bos|>"],
        audio_end_token_id=ids["<|audio_eos|>"],
        vision_start_token_id=ids["<|vision_bos|>"],
    )
    return _hooked(Qwen2_5OmniThinkerForConditionalGeneration(config), QWEN2_5_OMNI, "<|IMAGE|>", more)


def qwen3_omni() -> HookedMultimodal:
    """The thinker of Qwen3-Omni: DeepStack from two vision blocks, a dense language block between two mixtures."""
    more = ("<|audio_pad|>", "<|audio_start|>")
    text: dict[str, Any] = {
        **_TEXT,
        "vocab_size": len(VOCAB) + len(more),
        "head_dim": 8,
        "rope_parameters": rope(2, 1, 1),
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 24,
        "mlp_only_layers": [1],
    }
    config = Qwen3OmniMoeThinkerConfig(
        audio_config={**_AUDIO, "downsample_hidden_size": 8},
        vision_config={**_VISION, "num_position_embeddings": 16, "deepstack_visual_indexes": [0, 1]},
        text_config=text,
        image_token_id=VOCAB["<|image_pad|>"],
        video_token_id=VOCAB["<|video_pad|>"],
        audio_token_id=len(VOCAB),
        audio_start_token_id=len(VOCAB) + 1,
        vision_start_token_id=VOCAB["<|vision_start|>"],
    )
    return _hooked(Qwen3OmniMoeThinkerForConditionalGeneration(config), QWEN3_OMNI, more=more)


def ernie4_5_vl() -> HookedMultimodal:
    """ERNIE 4.5 VL: a dense block, and two mixtures with experts for pictures."""
    more = ("<|IMAGE_START|>", "<|IMAGE_PLACEHOLDER|>", "<|IMAGE_END|>")
    ids = {word: len(VOCAB) + number for number, word in enumerate(more)}
    vision = {key: held for key, held in _VISION.items() if key not in ("out_hidden_size", "temporal_patch_size")}
    config = Ernie4_5_VLMoeConfig(
        vision_config=vision,
        text_config={
            **_TEXT,
            "vocab_size": len(VOCAB) + len(more),
            "rope_parameters": rope(1, 1, 2),
            "moe_intermediate_size": [24, 16],
            "moe_k": 2,
            "moe_num_experts": 4,
            "moe_num_shared_experts": 1,
        },
        image_start_token_id=ids["<|IMAGE_START|>"],
        image_end_token_id=ids["<|IMAGE_END|>"],
        image_token_id=ids["<|IMAGE_PLACEHOLDER|>"],
        video_token_id=VOCAB["<|video_pad|>"],
        video_start_token_id=VOCAB["<|vision_start|>"],
        video_end_token_id=VOCAB["<|vision_end|>"],
        tie_word_embeddings=False,
    )
    pictures = Ernie4_5_VLMoeImageProcessorPil(
        patch_size=8, merge_size=2, size={"shortest_edge": 256, "longest_edge": 4096}
    )
    model = Ernie4_5_VLMoeForConditionalGeneration(config)
    return _hooked(model, ERNIE4_5_VL, "<|IMAGE_PLACEHOLDER|>", more, pictures)


def glmga() -> HookedMultimodal:
    """GLM-4.6V under the configuration and with the image processor of its successor."""
    more = ("<|begin_of_image|>", "<|image|>", "<|end_of_image|>")
    ids = {word: len(VOCAB) + number for number, word in enumerate(more)}
    config = GlmgaConfig(
        vision_config={"model_type": "glm4v_vision", **_VISION, "image_size": 32},
        text_config={
            "model_type": "glm4v_text",
            **_TEXT,
            "vocab_size": len(VOCAB) + len(more),
            "rope_parameters": rope(1, 1, 2, partial_rotary_factor=1.0),
        },
        image_token_id=ids["<|image|>"],
        video_token_id=VOCAB["<|video_pad|>"],
        image_start_token_id=ids["<|begin_of_image|>"],
        image_end_token_id=ids["<|end_of_image|>"],
    )
    pictures = GlmgaImageProcessorPil(patch_size=8, merge_size=2, size={"shortest_edge": 512, "longest_edge": 8192})
    return _hooked(Glm46VForConditionalGeneration(config), GLM4V, "<|image|>", more, pictures)


TINY = [
    Tiny("qwen2_5_omni", qwen2_5_omni, sizes=_SIZES),
    Tiny("qwen3_omni", qwen3_omni, sizes=_SIZES),
    Tiny("ernie4_5_vl", ernie4_5_vl, sizes=_SIZES),
    Tiny("glmga", glmga, sizes=_SIZES),
]
