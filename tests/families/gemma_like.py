"""Tiny models of the families around Gemma: PaliGemma (with Gemma and Gemma 2), Gemma 3, Gemma 4 in two builds."""

from typing import Any

import torch
from transformers import (
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3Processor,
    Gemma4Config,
    Gemma4ForConditionalGeneration,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    PaliGemmaProcessor,
)
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.gemma4.image_processing_pil_gemma4 import Gemma4ImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from mmlens.architectures.families.gemma4 import GEMMA4
from mmlens.inputs.processing import ComposedProcessor
from mmlens.models.hooked import HookedMultimodal
from tests.tiny import TEXT, VISION, VOCAB, Tiny, ending, tokenizer

_MARKS = ("<start_of_image>", "<end_of_image>")

_TEXT = {**TEXT, "head_dim": 8, "vocab_size": len(VOCAB) + len(_MARKS)}
_VISION = {**VISION, "model_type": "siglip_vision_model", "vision_use_head": False}


def _redrawn(model: Any) -> Any:
    """The model with new weights, and norms that are near the identity."""
    ending(model)
    with torch.no_grad():
        for module in model.modules():
            if type(module).__name__ in ("GemmaRMSNorm", "Gemma2RMSNorm", "Gemma3RMSNorm"):
                module.weight -= 1  # the weight of these norms is the gain's distance from 1
    return model


def paligemma(generation: int = 1) -> HookedMultimodal:
    """PaliGemma with Gemma, or with Gemma 2, whose layers have four norms, windows and soft caps."""
    text = {"model_type": "gemma"} if generation == 1 else {"model_type": "gemma2", "query_pre_attn_scalar": 8}
    config = PaliGemmaConfig(
        vision_config=_VISION,
        text_config={**text, **_TEXT, **({} if generation == 1 else {"sliding_window": 12})},
        image_token_index=VOCAB["<image>"],
        projection_dim=32,
        hidden_size=32,
    )
    image_processor = SiglipImageProcessorPil(size={"height": 32, "width": 32})
    image_processor.image_seq_length = 16
    processor = PaliGemmaProcessor(image_processor, tokenizer())
    return HookedMultimodal.from_hf(_redrawn(PaliGemmaForConditionalGeneration(config)), processor)


def gemma3() -> HookedMultimodal:
    """Gemma 3: 4 x 4 patches pooled to 2 x 2 tokens, two layers in three with a short window."""
    words = tokenizer(more=_MARKS)
    words.boi_token, words.eoi_token = _MARKS
    words.boi_token_id, words.eoi_token_id = words.convert_tokens_to_ids(list(_MARKS))
    config = Gemma3Config(
        vision_config=_VISION,
        text_config={
            **_TEXT,
            "query_pre_attn_scalar": 8,
            "sliding_window": 8,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        },
        mm_tokens_per_image=4,
        image_token_index=VOCAB["<image>"],
        boi_token_index=words.boi_token_id,
        eoi_token_index=words.eoi_token_id,
    )
    image_processor = Gemma3ImageProcessorPil(size={"height": 32, "width": 32})
    processor = Gemma3Processor(image_processor, words, image_seq_length=4)
    return HookedMultimodal.from_hf(_redrawn(Gemma3ForConditionalGeneration(config)), processor)


def gemma4(build: str = "small") -> HookedMultimodal:
    """Gemma 4: small (embeddings for every layer, shared keys and values) or sparse (experts, values that are keys)."""
    small = build == "small"
    words = tokenizer("<|image|>", ["<|image|>", *_MARKS])
    own = {"hidden_size_per_layer_input": 6, "num_kv_shared_layers": 2}
    sparse = {"enable_moe_block": True, "num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 12}
    full = {"attention_k_eq_v": True, "num_global_key_value_heads": 1, "use_bidirectional_attention": "vision"}
    config = Gemma4Config(
        vision_config={
            "hidden_size": 24,
            "intermediate_size": 40,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "head_dim": 12,
            "patch_size": 4,
            "pooling_kernel_size": 2,
            "position_embedding_size": 32,
        },
        text_config={
            **_TEXT,
            **(own if small else {"hidden_size_per_layer_input": 0, **sparse, **full}),
            "vocab_size": len(words),
            "vocab_size_per_layer_input": len(words),
            "num_hidden_layers": 4,
            "global_head_dim": 16,
            "sliding_window": 8,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
        },
        audio_config=None,
        tie_word_embeddings=False,
        image_token_id=words.image_token_id,
        boi_token_id=words.convert_tokens_to_ids(_MARKS[0]),
        eoi_token_id=words.convert_tokens_to_ids(_MARKS[1]),
        video_token_id=VOCAB["<|video_pad|>"],
        audio_token_id=VOCAB["<|vision_start|>"],
    )
    model = _redrawn(Gemma4ForConditionalGeneration(config))
    with torch.no_grad():
        for layer in model.model.language_model.layers:
            layer.layer_scalar.fill_(0.8)
        for name, parameter in model.named_parameters():
            if name.endswith("q_norm.weight"):
                parameter *= 0.3  # its scores are not divided by anything: trained gains are small
    image_processor = Gemma4ImageProcessorPil(patch_size=4, max_soft_tokens=70, pooling_kernel_size=2)
    return HookedMultimodal.from_hf(model, ComposedProcessor(image_processor, words, GEMMA4, model.config))


#: Pictures of 70 tokens, the fewest that Gemma 4's image processor makes, so that none is resized.
_SEVENTY = ((56, 80), (80, 56))

TINY = [
    Tiny("paligemma", paligemma),
    Tiny("paligemma2", lambda: paligemma(2)),
    Tiny("gemma3", gemma3),
    Tiny("gemma4_small", gemma4, sizes=_SEVENTY),
    Tiny("gemma4_sparse", lambda: gemma4("sparse"), sizes=_SEVENTY),
]
