"""Tiny models of families that put another language model behind a tower that others have too."""

from typing import Any

import torch
from PIL import Image
from torch import nn
from transformers import (
    CohereCompassConfig,
    CohereCompassForConditionalGeneration,
    Cosmos3EdgeConfig,
    Cosmos3EdgeForConditionalGeneration,
    Cosmos3OmniConfig,
    Cosmos3OmniForConditionalGeneration,
    HyperCLOVAXVisionV2Config,
    HyperCLOVAXVisionV2ForConditionalGeneration,
    Lfm3VlConfig,
    Lfm3VlForConditionalGeneration,
    LlavaConfig,
    LlavaForConditionalGeneration,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    MistralLarge4Config,
    MistralLarge4ForConditionalGeneration,
    MuseGlimmerConfig,
    MuseGlimmerForConditionalGeneration,
    MuseSparkConfig,
    MuseSparkForConditionalGeneration,
    T5Gemma2Config,
    T5Gemma2ForConditionalGeneration,
)
from transformers.models.cosmos3_edge.image_processing_pil_cosmos3_edge import Cosmos3EdgeImageProcessorPil
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.gemma3.processing_gemma3 import Gemma3Processor
from transformers.models.pixtral.image_processing_pil_pixtral import PixtralImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from mmlens.architectures.families.cohere_compass import COHERE_COMPASS
from mmlens.architectures.families.cosmos3_edge import COSMOS3_EDGE
from mmlens.architectures.families.hyperclovax_vision_v2 import HYPERCLOVAX_VISION_V2
from mmlens.architectures.families.lfm3_vl import LFM3_VL
from mmlens.architectures.families.mistral3 import MISTRAL3
from mmlens.architectures.families.muse_glimmer import MUSE_GLIMMER, MUSE_SPARK
from mmlens.architectures.families.qwen3_vl import QWEN3_VL
from mmlens.architectures.loading import find_family
from mmlens.declarations.family import Family
from mmlens.inputs.processing import ComposedProcessor
from mmlens.models.hooked import HookedMultimodal
from tests.families.mistral_like import PIXTRAL, ROW_MARKS
from tests.families.qwen_like import QWEN_VISION, ending, rope
from tests.tile_processor import pixels_of
from tests.tiny import TEXT, VISION, VOCAB, Tiny, tokenizer

_DEEP = {**QWEN_VISION, "num_position_embeddings": 16, "deepstack_visual_indexes": [0, 1]}
_TOKENS: dict[str, Any] = {"image_token_id": VOCAB["<|image_pad|>"], "video_token_id": VOCAB["<|video_pad|>"]}
_MARKS = {"vision_start_token_id": VOCAB["<|vision_start|>"], "vision_end_token_id": VOCAB["<|vision_end|>"]}


def _packed(model: nn.Module, family: Family, image_token: str = "<|image_pad|>") -> HookedMultimodal:
    """The model with Qwen2-VL's image processor."""
    drawn = ending(model)
    pictures = Qwen2VLImageProcessorPil(patch_size=8, merge_size=2, size={"shortest_edge": 256, "longest_edge": 4096})
    return HookedMultimodal.from_hf(drawn, ComposedProcessor(pictures, tokenizer(image_token), family, drawn.config))


def cosmos3_omni() -> HookedMultimodal:
    """Cosmos 3, as far as it reads pictures."""
    text = {**TEXT, "model_type": "qwen3_vl_text", "head_dim": 8, "rope_parameters": rope(2, 1, 1)}
    config = Cosmos3OmniConfig(vision_config=dict(_DEEP), text_config=text, **_TOKENS, **_MARKS)
    return _packed(Cosmos3OmniForConditionalGeneration(config), QWEN3_VL)


def cohere_compass() -> HookedMultimodal:
    """North: one block with a sliding window, one without positions."""
    kinds = {"sliding_attention": rope(2, 1, 1), "full_attention": None}
    text = {
        **TEXT,
        "head_dim": 8,
        "sliding_window": 16,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        "rope_parameters": kinds,
        "logit_scale": 0.5,
    }
    config = CohereCompassConfig(vision_config=dict(_DEEP), text_config=text, **_TOKENS, **_MARKS)
    return _packed(CohereCompassForConditionalGeneration(config), COHERE_COMPASS)


def hyperclovax_vision_v2() -> HookedMultimodal:
    """HyperCLOVA X Vision 2, with norms behind the branches; merged squares are narrower than the language model."""
    config = HyperCLOVAXVisionV2Config(
        vision_config={**QWEN_VISION, "out_hidden_size": 28, "window_size": 32, "fullatt_block_indexes": [1]},
        text_config={
            **TEXT,
            "model_type": "hyperclovax",
            "use_post_norm": True,
            "residual_multiplier": 0.7,
            "attention_multiplier": 0.3,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        },
        **_TOKENS,
    )
    return _packed(HyperCLOVAXVisionV2ForConditionalGeneration(config), HYPERCLOVAX_VISION_V2)


def lfm3_vl() -> HookedMultimodal:
    """LFM3-VL: convolutions and attention in both parts, one of the latter with a sliding window."""
    config = Lfm3VlConfig(
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 40,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "patch_size": 8,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "layer_types": ["conv", "full_attention", "conv"],
        },
        text_config={
            **TEXT,
            "model_type": "lfm3",
            "num_hidden_layers": 4,
            "head_dim": 8,
            "sliding_window": 16,
            "layer_types": ["conv", "full_attention", "sliding_attention", "conv"],
        },
        projector_hidden_size=28,
        tie_word_embeddings=False,
        **_TOKENS,
        **_MARKS,
    )
    return _packed(Lfm3VlForConditionalGeneration(config), LFM3_VL)


def pixtral() -> HookedMultimodal:
    """Pixtral: a LLaVA whose tower takes pictures of any size, read one block before the last."""
    words = tokenizer("[IMG]", ROW_MARKS)
    config = LlavaConfig(
        vision_config=PIXTRAL,
        text_config={**TEXT, "model_type": "mistral", "vocab_size": len(words), "head_dim": 8},
        image_token_index=words.image_token_id,
        vision_feature_layer=-2,
        vision_feature_select_strategy="full",
    )
    pictures = PixtralImageProcessorPil(size={"longest_edge": 64}, patch_size={"height": 8, "width": 8})
    model = ending(LlavaForConditionalGeneration(config))
    return HookedMultimodal.from_hf(model, ComposedProcessor(pictures, words, find_family(model), model.config))


def _mistral4(model_class: Any, config_class: Any, model_type: str, **text: Any) -> HookedMultimodal:
    """The tower of Mistral 3 in front of one dense and two sparse blocks with latents."""
    words = tokenizer("[IMG]", ROW_MARKS)
    config = config_class(
        vision_config=PIXTRAL,
        text_config={
            **TEXT,
            "model_type": model_type,
            "vocab_size": len(words),
            "num_key_value_heads": 4,
            "moe_intermediate_size": 16,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "first_k_dense_replace": 1,
            "kv_lora_rank": 12,
            "qk_rope_head_dim": 4,
            "qk_nope_head_dim": 4,
            "v_head_dim": 6,
            **text,
        },
        image_token_index=words.image_token_id,
        vision_feature_layer=-1,
        spatial_merge_size=2,
        tie_word_embeddings=False,
    )
    model = ending(model_class(config))
    pictures = PixtralImageProcessorPil(size={"longest_edge": 64}, patch_size={"height": 8, "width": 8})
    return HookedMultimodal.from_hf(model, ComposedProcessor(pictures, words, MISTRAL3, model.config))


def mistral_large4() -> HookedMultimodal:
    """Mistral Large 4: six keys per query, the last of four layers takes over latents and the choice of keys."""
    return _mistral4(
        MistralLarge4ForConditionalGeneration,
        MistralLarge4Config,
        "mistral_large4_text",
        num_hidden_layers=4,
        index_topk=6,
        index_head_dim=8,
        index_n_heads=16,  # with few, many scores are zero, and which of those are chosen is by chance
        indexer_types=["full", "full", "full", "shared"],
        no_rope_layers=[1, 0, 1, 1],
        kv_source_layers=[0, 1, 2, 2],
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    )


def cosmos3_edge() -> HookedMultimodal:
    """Cosmos 3 Edge, as far as it reads pictures."""
    config = Cosmos3EdgeConfig(
        vision_config={
            "hidden_size": 24,
            "intermediate_size": 40,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "num_patches": 16,
            "patch_size": 8,
            "spatial_merge_size": 2,
        },
        text_config={**TEXT, "head_dim": 8, "rope_parameters": rope(2, 1, 1)},
        projector_hidden_size=28,
        **_TOKENS,
        **_MARKS,
    )
    model = ending(Cosmos3EdgeForConditionalGeneration(config))
    pictures = Cosmos3EdgeImageProcessorPil(
        patch_size=8, merge_size=2, size={"shortest_edge": 256, "longest_edge": 4096}
    )
    words = tokenizer("<|image_pad|>")
    return HookedMultimodal.from_hf(model, ComposedProcessor(pictures, words, COSMOS3_EDGE, model.config))


def t5gemma2() -> HookedMultimodal:
    """T5Gemma 2: 4 x 4 patches pooled to 2 x 2 tokens; sliding windows in encoder and decoder."""
    marks = ("<start_of_image>", "<end_of_image>")
    words = tokenizer(more=marks)
    words.boi_token, words.eoi_token = marks
    words.boi_token_id, words.eoi_token_id = words.convert_tokens_to_ids(list(marks))
    text = {
        **TEXT,
        "vocab_size": len(words),
        "head_dim": 8,
        "query_pre_attn_scalar": 8,
        "sliding_window": 8,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    }
    config = T5Gemma2Config(
        encoder={
            "vision_config": {**VISION, "vision_use_head": False},
            "text_config": text,
            "mm_tokens_per_image": 4,
            "boi_token_index": words.boi_token_id,
            "eoi_token_index": words.eoi_token_id,
        },
        decoder=text,
        image_token_index=VOCAB["<image>"],
        tie_word_embeddings=False,
    )
    model = ending(T5Gemma2ForConditionalGeneration(config))
    for name, parameter in model.named_parameters():
        if "norm" in name and "vision_tower" not in name:
            parameter.data -= 1  # the gain's distance from 1
    processor = Gemma3Processor(Gemma3ImageProcessorPil(size={"height": 32, "width": 32}), words, image_seq_length=4)
    return HookedMultimodal.from_hf(model, processor)


class _Raster:
    """What Muse's image processor does for pictures of whole squares: patches in raster order."""

    def __call__(self, images: list[Image.Image], return_tensors: str) -> dict[str, torch.Tensor]:
        shapes = [(image.height // 8, image.width // 8) for image in images]
        patches = [
            pixels_of(image).view(rows, 8, columns, 8, 3).transpose(1, 2).reshape(rows * columns, -1).repeat(1, 2)
            for image, (rows, columns) in zip(images, shapes, strict=True)
        ]
        grids = torch.tensor([[1, rows, columns] for rows, columns in shapes])
        return {"pixel_values": torch.cat(patches), "image_grid_thw": grids}


_MUSE_MARKS = ("<|patch|>", "<|image_start|>", "<|image_end|>")


_MUSE_VISION = {
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "patch_size": 8,
    "pos_emb_height": 4,
    "pos_emb_width": 4,
    "max_position_embeddings": 16,
    "layer_types": ["window_attention", "full_attention", "window_attention"],
}
_MUSE_TEXT = {
    **TEXT,
    "vocab_size": len(VOCAB) + len(_MUSE_MARKS),
    "head_dim": 8,
    "sliding_window": 16,
    "post_norm_eps": 1e-6,
    "output_multiplier": 0.7,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
}


def _muse(model_class: Any, config_class: Any, family: Family, **options: Any) -> HookedMultimodal:
    """A model with windows of 4 x 4 patches in two vision blocks of three, and one language block without positions."""
    words = tokenizer("<|patch|>", _MUSE_MARKS)
    config = config_class(
        vision_config=dict(_MUSE_VISION),
        out_hidden_size=96,
        projector_hidden_size=28,
        image_token_id=words.image_token_id,
        video_token_id=VOCAB["<|video_pad|>"],
        **options,
    )
    model = ending(model_class(config))
    for name, parameter in model.named_parameters():
        if "layernorm" in name:
            parameter.data -= 1  # the gain's distance from 1
    return HookedMultimodal.from_hf(model, ComposedProcessor(_Raster(), words, family, model.config))


def muse_spark() -> HookedMultimodal:
    """Muse Spark: the first language block is dense, the others are sparse."""
    experts = {
        "moe_intermediate_size": 16,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "moe_hidden_size": 16,
        "mlp_layer_types": ["dense", "sparse", "sparse"],
    }
    audio = {
        "patch_sizes": (4, 4),
        "hidden_sizes": (8, 8),
        "depths": (1, 1),
        "num_hidden_layers": 2,
        "out_hidden_size": 32,
    }
    return _muse(
        MuseSparkForConditionalGeneration,
        MuseSparkConfig,
        MUSE_SPARK,
        text_config={**_MUSE_TEXT, **experts},
        audio_config=audio,
        audio_token_id=VOCAB["<|vision_start|>"],
    )


#: Picture sizes that need no resizing, of which the second makes the windows of windowed towers ragged.
_SIZES = ((32, 32), (48, 80))
_SMALL = ((32, 64), (48, 32))

TINY = [
    Tiny("cosmos3_omni", cosmos3_omni, sizes=_SIZES),
    Tiny("cohere_compass", cohere_compass, sizes=_SIZES),
    Tiny("hyperclovax_vision_v2", hyperclovax_vision_v2, sizes=_SIZES),
    Tiny("lfm3_vl", lfm3_vl, sizes=_SIZES),
    Tiny("pixtral", pixtral, sizes=_SMALL),
    Tiny(
        "mistral4",
        lambda: _mistral4(Mistral3ForConditionalGeneration, Mistral3Config, "mistral4", q_lora_rank=20),
        sizes=_SMALL,
    ),
    # its queries grow with their position, which a forward pass counts with the padding and generation without
    Tiny("mistral_large4", mistral_large4, sizes=(_SMALL[0], _SMALL[0])),
    Tiny("cosmos3_edge", cosmos3_edge, sizes=_SIZES),
    Tiny("t5gemma2", t5gemma2),
    Tiny(
        "muse_glimmer",
        lambda: _muse(MuseGlimmerForConditionalGeneration, MuseGlimmerConfig, MUSE_GLIMMER, text_config=_MUSE_TEXT),
        sizes=_SIZES,
    ),
    Tiny("muse_spark", muse_spark, sizes=_SIZES),
]
