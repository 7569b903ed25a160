"""Tiny models of GLM-4.1V, 4.5V, 4.6V and GLM-OCR: dense and as mixtures of experts."""

from typing import Any

from torch import nn
from transformers import (
    Glm4vConfig,
    Glm4vForConditionalGeneration,
    Glm4vMoeConfig,
    Glm4vMoeForConditionalGeneration,
    Glm46VConfig,
    Glm46VForConditionalGeneration,
    GlmOcrConfig,
    GlmOcrForConditionalGeneration,
)
from transformers.models.glm4v.image_processing_pil_glm4v import Glm4vImageProcessorPil

from mmlens.architectures.families.glm4v import GLM4V
from mmlens.inputs.processing import ComposedProcessor
from mmlens.models.hooked import HookedMultimodal
from tests.families.qwen_like import ending, rope
from tests.tiny import TEXT, VOCAB, Tiny, tokenizer

_MORE = (
    *("<|begin_of_image|>", "<|image|>", "<|end_of_image|>"),
    *("<|begin_of_video|>", "<|video|>", "<|end_of_video|>"),
)
_TEXT: dict[str, Any] = {**TEXT, "vocab_size": len(VOCAB) + len(_MORE)}
#: The first block is dense, the others are mixtures.
_EXPERTS: dict[str, Any] = {
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    "moe_intermediate_size": 24,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
}
_VISION: dict[str, Any] = {
    "depth": 3,
    "hidden_size": 24,
    "intermediate_size": 40,
    "out_hidden_size": 32,
    "num_heads": 2,
    "image_size": 32,
    "patch_size": 8,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
}
_SIZES = ((32, 32), (48, 80))


def _hooked(model_class: type[nn.Module], config_class: Any, **text: Any) -> HookedMultimodal:
    """A model with its image processor, whose limits count pixels of both frames that a patch holds."""
    words = tokenizer("<|image|>", more=_MORE)
    config = config_class(
        vision_config=dict(_VISION),
        text_config={**_TEXT, "rope_parameters": rope(1, 1, 2, partial_rotary_factor=1.0), **text},
        image_token_id=words.image_token_id,
        video_token_id=VOCAB["<|video_pad|>"],
        image_start_token_id=words.convert_tokens_to_ids(_MORE[0]),
        image_end_token_id=words.convert_tokens_to_ids(_MORE[2]),
    )
    model = ending(model_class(config))
    pictures = Glm4vImageProcessorPil(patch_size=8, merge_size=2, size={"shortest_edge": 512, "longest_edge": 8192})
    return HookedMultimodal.from_hf(model, ComposedProcessor(pictures, words, GLM4V, model.config))


def glm4v() -> HookedMultimodal:
    """GLM-4.1V, with a dense language model."""
    return _hooked(Glm4vForConditionalGeneration, Glm4vConfig)


def glm46v(sparse: bool) -> HookedMultimodal:
    """GLM-4.6V, whose language model is either of the two."""
    text = {"model_type": "glm4v_moe_text", **_EXPERTS} if sparse else {"model_type": "glm4v_text"}
    return _hooked(Glm46VForConditionalGeneration, Glm46VConfig, **text)


TINY = [
    Tiny("glm4v", glm4v, sizes=_SIZES),
    Tiny("glm4v_moe", lambda: _hooked(Glm4vMoeForConditionalGeneration, Glm4vMoeConfig, **_EXPERTS), sizes=_SIZES),
    Tiny("glm46v", lambda: glm46v(sparse=False), sizes=_SIZES),
    Tiny("glm46v_moe", lambda: glm46v(sparse=True), sizes=_SIZES),
    Tiny("glm_ocr", lambda: _hooked(GlmOcrForConditionalGeneration, GlmOcrConfig, head_dim=8), sizes=_SIZES),
]
