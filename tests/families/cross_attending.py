"""Tiny models whose language model looks at the picture from cross-attention blocks: Llama 3.2 Vision, Idefics."""

from transformers import (
    IdeficsConfig,
    IdeficsForVisionText2Text,
    IdeficsProcessor,
    MllamaConfig,
    MllamaForConditionalGeneration,
    MllamaProcessor,
)
from transformers.models.idefics.image_processing_pil_idefics import IdeficsImageProcessorPil
from transformers.models.mllama.image_processing_pil_mllama import MllamaImageProcessorPil

from mmlens.models.hooked import HookedMultimodal
from tests.tiny import TEXT, VOCAB, Tiny, redraw, tokenizer

_IMAGE = "<|image|>"


def mllama() -> HookedMultimodal:
    """Llama 3.2 Vision: three blocks, two gated global ones, up to two tiles; every second language block cross-attends."""
    config = MllamaConfig(
        vision_config={
            "hidden_size": 24,
            "intermediate_size": 40,
            "num_hidden_layers": 3,
            "num_global_layers": 2,
            "attention_heads": 2,
            "vision_output_dim": 72,
            "intermediate_layers_indices": [0, 2],
            "image_size": 16,
            "patch_size": 8,
            "max_num_tiles": 2,
            "supported_aspect_ratios": [[1, 1], [1, 2], [2, 1]],
        },
        text_config={**TEXT, "num_hidden_layers": 4, "cross_attention_layers": [1, 3], "vocab_size": len(VOCAB) + 1},
        image_token_index=len(VOCAB),
    )
    model = redraw(MllamaForConditionalGeneration(config))
    pictures = MllamaImageProcessorPil(size={"height": 16, "width": 16}, max_image_tiles=2)
    return HookedMultimodal.from_hf(model, MllamaProcessor(pictures, tokenizer(_IMAGE, more=[_IMAGE])))


def idefics() -> HookedMultimodal:
    """Idefics: a cross-attention block in front of every second block, a perceiver, two tokens in tables of their own."""
    config = IdeficsConfig(
        vision_config={
            "embed_dim": 24,
            "intermediate_size": 40,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "image_size": 32,
            "patch_size": 8,
        },
        perceiver_config={
            "use_resampler": True,
            "resampler_n_latents": 4,
            "resampler_depth": 2,
            "resampler_n_heads": 2,
            "resampler_head_dim": 12,
        },
        use_resampler=True,
        cross_layer_interval=2,
        qk_layer_norms=True,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=4,
        num_attention_heads=4,
        vocab_size=len(VOCAB),
        additional_vocab_size=2,
        max_position_embeddings=256,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    model = redraw(IdeficsForVisionText2Text(config))
    words = tokenizer(more=["<fake_token_around_image>"])
    return HookedMultimodal.from_hf(model, IdeficsProcessor(IdeficsImageProcessorPil(image_size=32), words))


TINY = [
    Tiny("mllama", mllama, has_places=False, sizes=((16, 32), (16, 16))),
    Tiny("idefics", idefics, has_places=False, several=False),
]
