"""Tiny models of the Idefics line: Idefics2 (perceiver), Idefics3 and SmolVLM (pixel shuffle, tiles with markers)."""

from typing import Any

from transformers import (
    Idefics2Config,
    Idefics2ForConditionalGeneration,
    Idefics2Processor,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3Processor,
    PreTrainedTokenizerFast,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
)
from transformers.models.idefics2.image_processing_pil_idefics2 import Idefics2ImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

from mmlens.architectures.families.idefics3 import IDEFICS3
from mmlens.inputs.processing import ComposedProcessor
from mmlens.models.hooked import HookedMultimodal
from tests.tiny import BOX, TEXT, VISION, VOCAB, Tiny, redraw, tokenizer

_MARKS = (
    *("\n", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>"),
    *(f"<row_{row}_col_{column}>" for row in (1, 2) for column in (1, 2)),
)
_TEXT = {**TEXT, "vocab_size": len(VOCAB) + len(_MARKS)}


def _words() -> PreTrainedTokenizerFast:
    made = tokenizer(more=_MARKS)
    made.image_boundary_token = "<fake_token_around_image>"
    return made


def idefics2(*, cut: bool = False) -> HookedMultimodal:
    """Idefics2, with pictures whole or cut into quarters besides."""
    config = Idefics2Config(
        vision_config={**VISION, "image_size": 64},
        perceiver_config={
            "hidden_size": 32,
            "resampler_n_latents": 4,
            "resampler_depth": 2,
            "resampler_n_heads": 4,
            "resampler_head_dim": 8,
            "num_key_value_heads": 2,
        },
        text_config={"model_type": "mistral", **_TEXT},
        image_token_id=VOCAB["<image>"],
    )
    model = redraw(Idefics2ForConditionalGeneration(config))
    pictures = Idefics2ImageProcessorPil(size={"shortest_edge": 16, "longest_edge": 64}, do_image_splitting=cut)
    return HookedMultimodal.from_hf(model, Idefics2Processor(pictures, _words(), image_seq_len=4))


def _tiles() -> dict[str, Any]:
    """Tiles of 32 pixels, of a picture whose longer side is 64."""
    return {"size": {"longest_edge": 64}, "max_image_size": {"longest_edge": 32}, "resample": BOX}


def idefics3() -> HookedMultimodal:
    """Idefics3 with a Llama."""
    config = Idefics3Config(
        vision_config=VISION, text_config={"model_type": "llama", **_TEXT}, image_token_id=VOCAB["<image>"]
    )
    model = redraw(Idefics3ForConditionalGeneration(config))
    return HookedMultimodal.from_hf(
        model, Idefics3Processor(Idefics3ImageProcessorPil(**_tiles()), _words(), image_seq_len=4)
    )


def smolvlm() -> HookedMultimodal:
    """SmolVLM, whose processor is composed: its own one has a video part."""
    config = SmolVLMConfig(
        vision_config=VISION, text_config={"model_type": "llama", **_TEXT}, image_token_id=VOCAB["<image>"]
    )
    model = redraw(SmolVLMForConditionalGeneration(config))
    pictures = SmolVLMImageProcessorPil(**_tiles())
    return HookedMultimodal.from_hf(model, ComposedProcessor(pictures, _words(), IDEFICS3, model.config))


TINY = [
    Tiny("idefics2", idefics2, has_places=False, sizes=((32, 48), (48, 32))),
    Tiny("idefics2_cut", lambda: idefics2(cut=True), has_places=False, sizes=((32, 48), (48, 32))),
    Tiny("idefics3", idefics3, sizes=((64, 64), (32, 64))),
    Tiny("smolvlm", smolvlm, sizes=((64, 32), (64, 64))),
]
