"""Tiny models whose pictures pass through learned queries or pooling: BLIP-2, Kosmos-2, Aria."""

from tokenizers import AddedToken
from transformers import (
    AriaConfig,
    AriaForConditionalGeneration,
    AriaProcessor,
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    Kosmos2Config,
    Kosmos2ForConditionalGeneration,
    Kosmos2Processor,
)
from transformers.models.aria.image_processing_pil_aria import AriaImageProcessorPil
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from mmlens.models.hooked import HookedMultimodal
from tests.tiny import VOCAB, Tiny, redraw, tokenizer

_VISION = {
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
}
_TOKENS = {
    "vocab_size": len(VOCAB),
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def blip_2() -> HookedMultimodal:
    """BLIP-2 with OPT."""
    config = Blip2Config(
        vision_config=_VISION,
        qformer_config={
            "hidden_size": 16,
            "intermediate_size": 28,
            "num_hidden_layers": 4,
            "num_attention_heads": 2,
            "encoder_hidden_size": 24,
            "cross_attention_frequency": 2,
        },
        text_config={
            "model_type": "opt",
            "hidden_size": 32,
            "ffn_dim": 48,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "word_embed_proj_dim": 32,
            **_TOKENS,
        },
        num_query_tokens=4,
        image_token_index=VOCAB["<image>"],
    )
    model = redraw(Blip2ForConditionalGeneration(config))
    words = tokenizer()
    words.image_token = AddedToken("<image>", normalized=False, special=True)  # this processor asks for its .content
    pictures = BlipImageProcessorPil(size={"height": 32, "width": 32})
    return HookedMultimodal.from_hf(model, Blip2Processor(pictures, words, num_query_tokens=4))


def kosmos2() -> HookedMultimodal:
    """Kosmos-2 with four latent queries."""
    config = Kosmos2Config(
        vision_config=_VISION,
        text_config={
            "embed_dim": 32,
            "ffn_dim": 48,
            "layers": 3,
            "attention_heads": 4,
            **_TOKENS,
            "vocab_size": len(VOCAB) + 20,
        },
        latent_query_num=4,
    )
    model = redraw(Kosmos2ForConditionalGeneration(config))
    pictures = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    processor = Kosmos2Processor(pictures, tokenizer(), num_patch_index_tokens=4)
    processor.num_image_tokens = 4
    return HookedMultimodal.from_hf(model, processor)


def aria() -> HookedMultimodal:
    """Aria: 25 patches, four queries, four routed experts of which two are chosen, one shared."""
    image = "<|img|>"
    config = AriaConfig(
        vision_config={**_VISION, "model_type": "idefics3_vision", "image_size": 980, "patch_size": 196},
        text_config={
            "hidden_size": 32,
            "intermediate_size": 16,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "moe_num_experts": 4,
            "moe_topk": 2,
            "moe_num_shared_experts": 1,
            **_TOKENS,
            "vocab_size": len(VOCAB) + 1,
        },
        projector_patch_to_query_dict={25: 4},
        image_token_index=len(VOCAB),
    )
    model = redraw(AriaForConditionalGeneration(config))
    processor = AriaProcessor(AriaImageProcessorPil(), tokenizer(image, more=[image]), size_conversion={980: 4})
    return HookedMultimodal.from_hf(model, processor)


TINY = [
    Tiny("blip_2", blip_2, has_places=False, several=False),
    Tiny("kosmos2", kosmos2, has_places=False, several=False),
    Tiny("aria", aria, has_places=False, sizes=((980, 980), (392, 980))),
]
