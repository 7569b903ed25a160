"""Tiny models whose language model is an encoder and a decoder."""

from collections.abc import Callable
from typing import Any

import torch
from transformers import Florence2Config, Florence2ForConditionalGeneration, Florence2Processor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from mmlens.models.hooked import HookedMultimodal
from tests.families.query_like import blip_2
from tests.tiny import VOCAB, Tiny, instructblip, redraw, tokenizer


def florence2() -> HookedMultimodal:
    """Florence-2: four stages down to a map of 2 x 2, windows smaller than the first maps, a BART of two and two blocks."""
    config = Florence2Config(
        vision_config={
            "depths": (1, 1, 1, 1),
            "embed_dim": (12, 16, 16, 24),
            "num_heads": (2, 2, 2, 2),
            "num_groups": (2, 2, 2, 2),
            "window_size": 3,
            "mlp_ratio": 2.0,
            "projection_dim": 32,
            "drop_path_rate": 0.0,
        },
        text_config={
            "model_type": "bart",
            "d_model": 32,
            "encoder_layers": 2,
            "decoder_layers": 3,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 40,
            "decoder_ffn_dim": 48,
            "vocab_size": len(VOCAB),
            "max_position_embeddings": 128,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "decoder_start_token_id": 2,
            "forced_eos_token_id": None,
        },
        image_token_id=VOCAB["<image>"],
    )
    model = redraw(Florence2ForConditionalGeneration(config))
    size = {"height": 64, "width": 64}
    image_processor = CLIPImageProcessorPil(size=size, do_center_crop=False)
    image_processor.image_seq_length = 5
    return HookedMultimodal.from_hf(model, Florence2Processor(image_processor, tokenizer()))


def _t5(gated: bool) -> dict[str, Any]:
    return {
        "model_type": "t5",
        "d_model": 32,
        "d_kv": 6,
        "d_ff": 40,
        "num_layers": 3,
        "num_heads": 4,
        "feed_forward_proj": "gated-gelu" if gated else "relu",
        "vocab_size": len(VOCAB),
        "pad_token_id": 0,
        "eos_token_id": 2,
        "decoder_start_token_id": 0,
        "tie_word_embeddings": False,
    }


def with_t5(make: Callable[[dict[str, Any]], HookedMultimodal], *, gated: bool) -> HookedMultimodal:
    """A model with a T5, whose MLPs are gated in Flan-T5."""
    model = make(_t5(gated=gated))
    with torch.no_grad():
        for name, parameter in model.hf_model.named_parameters():
            if name.endswith("Attention.q.weight"):
                parameter.mul_(6**-0.5)  # T5 does not scale its scores; its queries are smaller instead
    return model


#: The convolutions of four stages reach far; painting can only show that the cells of a box change.
TINY = [
    Tiny("florence2", florence2, sizes=((64, 64), (64, 64)), reach=64.0, several=False, summaries=True),
    Tiny("instructblip_t5", lambda: with_t5(instructblip, gated=False), has_places=False, several=False),
    Tiny("blip_2_flan_t5", lambda: with_t5(blip_2, gated=True), has_places=False, several=False),
    Tiny("instructblip_flan_t5", lambda: with_t5(instructblip, gated=True), has_places=False, several=False),
]
