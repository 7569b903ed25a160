"""Tiny models of the families with a packed tower as Qwen2-VL's: Qwen2.5 to 3.5, EXAONE 4.5, VideoLLaMA3, PaddleOCR-VL."""

from typing import Any

from torch import nn
from transformers import (
    Exaone4_5_Config,
    Exaone4_5_ForConditionalGeneration,
    PaddleOCRVLConfig,
    PaddleOCRVLForConditionalGeneration,
    PaddleOCRVLProcessor,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3_5Config,
    Qwen3_5ForConditionalGeneration,
    Qwen3_5MoeConfig,
    Qwen3_5MoeForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLMoeConfig,
    Qwen3VLMoeForConditionalGeneration,
    VideoLlama3Config,
    VideoLlama3ForConditionalGeneration,
)
from transformers.models.paddleocr_vl.image_processing_pil_paddleocr_vl import PaddleOCRVLImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.qwen3_5.modeling_qwen3_5 import Qwen3_5RMSNorm
from transformers.models.qwen3_5_moe.modeling_qwen3_5_moe import Qwen3_5MoeRMSNorm
from transformers.models.video_llama_3.image_processing_pil_video_llama_3 import VideoLlama3ImageProcessorPil

from mmlens.architectures.families.exaone4_5 import EXAONE4_5
from mmlens.architectures.families.qwen2_vl import QWEN2_5_VL
from mmlens.architectures.families.qwen3_5 import QWEN3_5
from mmlens.architectures.families.qwen3_vl import QWEN3_VL
from mmlens.architectures.families.video_llama_3 import VIDEO_LLAMA_3
from mmlens.declarations.family import Family
from mmlens.inputs.processing import ComposedProcessor
from mmlens.models.hooked import HookedMultimodal
from tests import tiny
from tests.tiny import TEXT, VOCAB, Tiny, tokenizer

#: A packed tower with 2 x 2 merging, in Qwen's words.
QWEN_VISION: dict[str, Any] = {
    "depth": 3,
    "hidden_size": 24,
    "intermediate_size": 40,
    "out_hidden_size": 32,
    "num_heads": 2,
    "patch_size": 8,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
}
_TOKENS: dict[str, Any] = {
    "image_token_id": VOCAB["<|image_pad|>"],
    "video_token_id": VOCAB["<|video_pad|>"],
    "vision_start_token_id": VOCAB["<|vision_start|>"],
    "vision_end_token_id": VOCAB["<|vision_end|>"],
}
#: Picture sizes that need no resizing, of which the second makes the windows of windowed towers ragged.
_SIZES = ((32, 32), (48, 80))


def rope(*sections: int, **more: Any) -> dict[str, Any]:
    """Rotary positions that share their frequencies among time, height and width."""
    return {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": list(sections), **more}


def ending(model: nn.Module) -> Any:
    """The model with new weights and generation settings, and norms that are near the identity."""
    drawn = tiny.ending(model)
    for module in drawn.modules():
        if isinstance(module, Qwen3_5RMSNorm | Qwen3_5MoeRMSNorm):
            module.weight.data -= 1  # the gain's distance from 1
    return drawn


def _hooked(model: nn.Module, family: Family) -> HookedMultimodal:
    """The model with Qwen2-VL's image processor, which all these families use."""
    drawn = ending(model)
    pictures = Qwen2VLImageProcessorPil(patch_size=8, merge_size=2, size={"shortest_edge": 256, "longest_edge": 4096})
    return HookedMultimodal.from_hf(
        drawn, ComposedProcessor(pictures, tokenizer("<|image_pad|>"), family, drawn.config)
    )


def qwen2_5_vl() -> HookedMultimodal:
    """Qwen2.5-VL: windows of 2 x 2 squares in the first and last vision block, whole pictures in the middle one."""
    config = Qwen2_5_VLConfig(
        vision_config={**QWEN_VISION, "window_size": 32, "fullatt_block_indexes": [1]},
        text_config={**TEXT, "rope_parameters": rope(1, 1, 2)},
        **_TOKENS,
    )
    return _hooked(Qwen2_5_VLForConditionalGeneration(config), QWEN2_5_VL)


def qwen3_vl(sparse: bool = False) -> HookedMultimodal:
    """Qwen3-VL: DeepStack from the first two of three vision blocks; as a mixture with a dense block in the middle."""
    vision = {**QWEN_VISION, "num_position_embeddings": 16, "deepstack_visual_indexes": [0, 1]}
    text = {**TEXT, "head_dim": 8, "rope_parameters": rope(2, 1, 1)}
    if not sparse:
        config = Qwen3VLConfig(vision_config=vision, text_config=text, **_TOKENS)
        return _hooked(Qwen3VLForConditionalGeneration(config), QWEN3_VL)
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "mlp_only_layers": [1]}
    mixed = Qwen3VLMoeConfig(vision_config=vision, text_config={**text, **experts}, **_TOKENS)
    return _hooked(Qwen3VLMoeForConditionalGeneration(mixed), QWEN3_VL)


def qwen3_5(sparse: bool = False) -> HookedMultimodal:
    """Qwen3.5: linear attention, full attention, linear attention; grouped heads in both kinds."""
    vision = {**QWEN_VISION, "num_position_embeddings": 16}
    text = {
        **TEXT,
        "head_dim": 16,
        "layer_types": ["linear_attention", "full_attention", "linear_attention"],
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 6,
        "rope_parameters": rope(2, 1, 1, partial_rotary_factor=0.5),
    }
    if not sparse:
        config = Qwen3_5Config(vision_config=vision, text_config=text, **_TOKENS)
        return _hooked(Qwen3_5ForConditionalGeneration(config), QWEN3_5)
    experts = {
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 24,
        "shared_expert_intermediate_size": 16,
    }
    text.pop("intermediate_size")
    mixed = Qwen3_5MoeConfig(vision_config=vision, text_config={**text, **experts}, **_TOKENS)
    return _hooked(Qwen3_5MoeForConditionalGeneration(mixed), QWEN3_5)


def exaone4_5() -> HookedMultimodal:
    """EXAONE 4.5: grouped heads in the windowed tower; language blocks with and without a sliding window."""
    vision = {**QWEN_VISION, "hidden_size": 32, "num_heads": 4, "num_key_value_heads": 2}
    config = Exaone4_5_Config(
        vision_config={**vision, "window_size": 32, "fullatt_block_indexes": [1]},
        text_config={
            **TEXT,
            "model_type": "exaone4",
            "sliding_window": 8,
            "sliding_window_pattern": 2,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        },
        image_token_id=VOCAB["<|image_pad|>"],
        video_token_id=VOCAB["<|video_pad|>"],
    )
    return _hooked(Exaone4_5_ForConditionalGeneration(config), EXAONE4_5)


_SIGLIP = {
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "patch_size": 8,
}


def video_llama_3(merge: int) -> HookedMultimodal:
    """VideoLLaMA3 on pictures, whose squares of so many patches a side are averaged."""
    config = VideoLlama3Config(
        vision_config=_SIGLIP,
        text_config={"model_type": "qwen2", **TEXT},
        image_token_id=VOCAB["<|image_pad|>"],
        video_token_id=VOCAB["<|video_pad|>"],
    )
    model = ending(VideoLlama3ForConditionalGeneration(config))
    pictures = VideoLlama3ImageProcessorPil(
        patch_size=8, merge_size=merge, size={"shortest_edge": 256, "longest_edge": 4096}
    )
    words = tokenizer("<|image_pad|>")
    return HookedMultimodal.from_hf(model, ComposedProcessor(pictures, words, VIDEO_LLAMA_3, model.config))


def paddleocr_vl() -> HookedMultimodal:
    """PaddleOCR-VL, with its own processor."""
    words = tokenizer("<|IMAGE_PLACEHOLDER|>", more=("<|IMAGE_START|>", "<|IMAGE_PLACEHOLDER|>", "<|IMAGE_END|>"))
    config = PaddleOCRVLConfig(
        vision_config={**_SIGLIP, "image_size": 32, "spatial_merge_size": 2},
        text_config={**TEXT, "vocab_size": len(words), "head_dim": 8, "rope_parameters": rope(1, 1, 2)},
        image_token_id=words.image_token_id,
        video_token_id=VOCAB["<|video_pad|>"],
        tie_word_embeddings=False,
    )
    model = ending(PaddleOCRVLForConditionalGeneration(config))
    pictures = PaddleOCRVLImageProcessorPil(
        patch_size=8, merge_size=2, size={"shortest_edge": 256, "longest_edge": 4096}
    )
    return HookedMultimodal.from_hf(model, PaddleOCRVLProcessor(pictures, words))


TINY = [
    Tiny("qwen2_5_vl", qwen2_5_vl, sizes=_SIZES),
    Tiny("qwen3_vl", qwen3_vl, sizes=_SIZES),
    Tiny("qwen3_vl_moe", lambda: qwen3_vl(sparse=True), sizes=_SIZES),
    Tiny("qwen3_5", qwen3_5, sizes=_SIZES),
    Tiny("qwen3_5_moe", lambda: qwen3_5(sparse=True), sizes=_SIZES),
    Tiny("exaone4_5", exaone4_5, sizes=_SIZES),
    Tiny("video_llama_3", lambda: video_llama_3(merge=1), sizes=_SIZES),
    Tiny("video_llama_3_merged", lambda: video_llama_3(merge=2), sizes=_SIZES),
    Tiny("paddleocr_vl", paddleocr_vl, sizes=_SIZES),
]
