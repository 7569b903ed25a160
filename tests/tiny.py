"""Tiny random models of the real transformers classes, with tokenizers and processors made here: nothing is downloaded.

Weights are redrawn, so that norms, biases, class rows and learned queries matter: with the initial ones, a hook that is
lost on a zero query or a unit gain would go unseen.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from tokenizers import AddedToken, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Sequence as PreTokenizers
from tokenizers.pre_tokenizers import Split, WhitespaceSplit
from transformers import (
    InstructBlipConfig,
    InstructBlipForConditionalGeneration,
    InstructBlipProcessor,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
)
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from mmlens.architectures.families.qwen2_vl import QWEN2_VL
from mmlens.inputs.processing import ComposedProcessor
from mmlens.models.hooked import HookedMultimodal

SPECIAL = [
    "<pad>",
    "<bos>",
    "<eos>",
    "<unk>",
    "<image>",
    "<|vision_start|>",
    "<|image_pad|>",
    "<|vision_end|>",
    "<|video_pad|>",
]
WORDS = [
    "user",
    ":",
    "assistant",
    "describe",
    "the",
    "image",
    "what",
    "color",
    "is",
    "circle",
    "red",
    "blue",
    "green",
    "a",
    "an",
    "and",
    "of",
    "small",
    "big",
    "grass",
    "sand",
    "where",
    "who",
]
VOCAB = {word: i for i, word in enumerate(SPECIAL + WORDS)}


def tokenizer(image_token: str = "<image>", more: Sequence[str] = ()) -> PreTrainedTokenizerFast:
    """A word-level tokenizer that knows a few words, and further special tokens if asked to."""
    known = {word: i for i, word in enumerate([*VOCAB, *more])}
    backend = Tokenizer(WordLevel(known, unk_token="<unk>"))
    backend.pre_tokenizer = PreTokenizers([WhitespaceSplit(), Split(":", "isolated")])
    made = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        additional_special_tokens=[*SPECIAL[4:], *more],
    )
    made.image_token = image_token
    made.image_token_id = known[image_token]
    made.padding_side = "left"
    return made


def redraw(model: torch.nn.Module, seed: int = 0) -> Any:
    """Draw every parameter anew: weights at a scale that keeps signals alive, gains near 1, biases and queries non-zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim >= 2:
                fan_in = parameter.shape[-1] if "experts." in name else parameter[0].numel()
                parameter.copy_(noise * (0.7 if "embed" in name or "token" in name else 1.2 / fan_in**0.5))
            elif "norm" in name.lower() and name.endswith("weight"):
                parameter.copy_(1 + 0.2 * noise)
            else:
                parameter.copy_(0.2 * noise)
    return model.eval()


def ending(model: torch.nn.Module) -> Any:
    """The model with new weights, and with the tiny tokenizer's ids for padding and end in its generation settings."""
    redraw(model)
    model.generation_config.eos_token_id = 2
    model.generation_config.pad_token_id = 0
    return model


#: A small Llama-like language model, in the words of most configurations.
TEXT: dict[str, Any] = {
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
#: A small tower that sees squares of 32 pixels in 4 x 4 patches.
VISION: dict[str, Any] = {
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
}
#: A small Q-Former with cross-attention in every second block.
QFORMER: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 28,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "encoder_hidden_size": 24,
    "cross_attention_frequency": 2,
}
#: Pillow's filter that averages whole boxes of pixels: squeezing by two spreads no pixel over a neighbouring patch.
BOX = 4


def llava(
    tower: str = "clip", *, keeps_class_row: bool = False, text: dict[str, Any] | None = None, side: int = 32
) -> HookedMultimodal:
    """LLaVA with a CLIP tower (class row, dropped unless asked; read at -2) or a SigLIP tower (read at -1).

    Its language model is `TEXT`, with what `text` says in the place of it; it sees squares of `side` pixels.
    """
    clip = tower == "clip"
    strategy: Literal["default", "full"] = "default" if clip and not keeps_class_row else "full"
    config = LlavaConfig(
        vision_config={
            "model_type": "clip_vision_model" if clip else "siglip_vision_model",
            **VISION,
            "image_size": side,
        },
        text_config={"model_type": "llama", **TEXT, **(text or {})},
        image_token_index=VOCAB["<image>"],
        vision_feature_layer=-2 if clip else -1,
        vision_feature_select_strategy=strategy,
    )
    model = redraw(LlavaForConditionalGeneration(config))
    size = {"shortest_edge": side} if clip else {"height": side, "width": side}
    image_processor = (
        CLIPImageProcessorPil(size=size, crop_size={"height": side, "width": side})
        if clip
        else SiglipImageProcessorPil(size=size)
    )
    processor = LlavaProcessor(
        image_processor=image_processor,
        tokenizer=tokenizer(),
        patch_size=8,
        vision_feature_select_strategy=strategy,
        num_additional_image_tokens=1 if clip else 0,
    )
    return HookedMultimodal.from_hf(model, processor)


def qwen2_vl() -> HookedMultimodal:
    """Qwen2-VL: packed tower, 2x2 merger, multimodal rotary positions."""
    config = Qwen2VLConfig(
        vision_config={
            "depth": 3,
            "embed_dim": 32,
            "hidden_size": 32,
            "num_heads": 2,
            "mlp_ratio": 2,
            "patch_size": 8,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
        },
        text_config={**TEXT, "rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]}},
        image_token_id=VOCAB["<|image_pad|>"],
        video_token_id=VOCAB["<|video_pad|>"],
        vision_start_token_id=VOCAB["<|vision_start|>"],
        vision_end_token_id=VOCAB["<|vision_end|>"],
    )
    model = ending(Qwen2VLForConditionalGeneration(config))
    image_processor = Qwen2VLImageProcessorPil(
        patch_size=8, merge_size=2, size={"shortest_edge": 256, "longest_edge": 4096}
    )
    return HookedMultimodal.from_hf(
        model, ComposedProcessor(image_processor, tokenizer("<|image_pad|>"), QWEN2_VL, model.config)
    )


def instructblip(text: dict[str, Any] | None = None) -> HookedMultimodal:
    """InstructBLIP: BLIP tower, Q-Former with cross-attention in every second block, nested Llama (or what `text` says)."""
    config = InstructBlipConfig(
        vision_config={**VISION},
        qformer_config={**QFORMER, "vocab_size": len(VOCAB), "max_position_embeddings": 64, "pad_token_id": 0},
        text_config={"model_type": "llama", **TEXT} if text is None else text,
        num_query_tokens=4,
        image_token_index=VOCAB["<image>"],
    )
    model = redraw(InstructBlipForConditionalGeneration(config))
    image_processor = BlipImageProcessorPil(size={"height": 32, "width": 32})
    words = tokenizer()
    words.image_token = AddedToken("<image>", normalized=False, special=True)  # this processor asks for its .content
    processor = InstructBlipProcessor(image_processor, words, tokenizer(), num_query_tokens=4)
    return HookedMultimodal.from_hf(model, processor)


@dataclass(frozen=True)
class Tiny:
    """A family to test on.

    Attributes:
        name: short name.
        make: makes its model, with a processor.
        has_places: whether its language rows have places in the picture.
        sizes: (height, width) of the pictures of two samples; such that no picture has to be resized, where the family
            allows that.
        reach: how many pixels around a painted box a resampling may spread the paint; 0 where nothing is resampled.
        several: whether a sample may have several pictures.
        padded: whether samples of different length can be padded on the left into one batch.
        summaries: whether some rows sum up the whole picture and have no place of their own.
        needs: packages that are no requirement of this project, without which transformers cannot make its model.
        missing: why its model cannot be made here; None if it can.
        writes: whether it writes text; dual encoders do not.
    """

    name: str
    make: Callable[[], HookedMultimodal]
    has_places: bool = True
    sizes: tuple[tuple[int, int], tuple[int, int]] = ((32, 32), (32, 32))
    reach: float = 0.0
    several: bool = True
    padded: bool = True
    summaries: bool = False
    needs: tuple[str, ...] = ()
    missing: str | None = None
    writes: bool = True


TINY = [
    Tiny("llava_clip", lambda: llava("clip")),
    Tiny("llava_siglip", lambda: llava("siglip")),
    Tiny("qwen2_vl", qwen2_vl),
    Tiny("instructblip", instructblip, has_places=False),
]


def picture(seed: int = 0, height: int = 32, width: int = 32) -> torch.Tensor:
    """A noise picture `[height width 3]`, uint8."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (height, width, 3), generator=generator, dtype=torch.uint8)
