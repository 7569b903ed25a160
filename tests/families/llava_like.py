"""Tiny models of LLaVA's kin: further projectors (ViP-LLaVA), further towers (Video-LLaVA), tiles (NeXT, OneVision)."""

from typing import Any, Literal

import transformers

from mmlens.architectures.families.llava_next import LLAVA_NEXT
from mmlens.architectures.families.llava_onevision import LLAVA_ONEVISION
from mmlens.architectures.families.video_llava import VIDEO_LLAVA
from mmlens.inputs.processing import ComposedProcessor
from mmlens.models.hooked import HookedMultimodal
from tests.tiny import BOX, TEXT, VISION, VOCAB, Tiny, redraw, tokenizer

#: Resolutions (height, width) among which a canvas is chosen, for tiles of 32 pixels.
_CANVASES = [[32, 32], [32, 64], [64, 32], [64, 64]]


_TEXT = {**TEXT, "model_type": "llama", "vocab_size": len(VOCAB), "max_position_embeddings": 512}


def _parts(tower: str) -> dict[str, Any]:
    return {
        "vision_config": {"model_type": f"{tower}_vision_model", **VISION},
        "text_config": _TEXT,
        "image_token_index": VOCAB["<image>"],
    }


def vipllava() -> HookedMultimodal:
    """ViP-LLaVA: two layers of a CLIP tower side by side."""
    model = redraw(
        transformers.VipLlavaForConditionalGeneration(
            transformers.VipLlavaConfig(**_parts("clip"), vision_feature_layer=[-2, 1])
        )
    )
    pictures = transformers.CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    processor = transformers.LlavaProcessor(
        pictures, tokenizer(), patch_size=8, vision_feature_select_strategy="default", num_additional_image_tokens=1
    )
    return HookedMultimodal.from_hf(model, processor)


def video_llava() -> HookedMultimodal:
    """Video-LLaVA's picture half."""
    config = transformers.VideoLlavaConfig(**_parts("clip"), video_token_index=VOCAB["<|video_pad|>"])
    model = redraw(transformers.VideoLlavaForConditionalGeneration(config))
    pictures = transformers.VideoLlavaImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    return HookedMultimodal.from_hf(model, ComposedProcessor(pictures, tokenizer(), VIDEO_LLAVA, model.config))


def llava_next(tower: str = "clip", resample: int = BOX) -> HookedMultimodal:
    """LLaVA-NeXT with a CLIP tower (class row, dropped; read at -2) or a SigLIP tower (two layers side by side)."""
    clip = tower == "clip"
    strategy: Literal["default", "full"] = "default" if clip else "full"
    config = transformers.LlavaNextConfig(
        **_parts(tower),
        image_grid_pinpoints=_CANVASES,
        vision_feature_layer=-2 if clip else [-1, 1],
        vision_feature_select_strategy=strategy,
    )
    model = redraw(transformers.LlavaNextForConditionalGeneration(config))
    pictures = transformers.LlavaNextImageProcessorPil(
        size={"shortest_edge": 32},
        crop_size={"height": 32, "width": 32},
        image_grid_pinpoints=_CANVASES,
        resample=resample,
    )
    processor = transformers.LlavaNextProcessor(
        image_processor=pictures,
        tokenizer=tokenizer(),
        patch_size=8,
        vision_feature_select_strategy=strategy,
        num_additional_image_tokens=int(clip),
    )
    return HookedMultimodal.from_hf(model, processor)


def llava_next_video() -> HookedMultimodal:
    """LLaVA-NeXT-Video on pictures: as LLaVA-NeXT, with a processor composed here, as its own needs a video processor."""
    config = transformers.LlavaNextVideoConfig(
        **_parts("clip"), image_grid_pinpoints=_CANVASES, video_token_index=VOCAB["<|video_pad|>"]
    )
    model = redraw(transformers.LlavaNextVideoForConditionalGeneration(config))
    pictures = transformers.LlavaNextImageProcessorPil(
        size={"shortest_edge": 32},
        crop_size={"height": 32, "width": 32},
        image_grid_pinpoints=_CANVASES,
        resample=BOX,
    )
    return HookedMultimodal.from_hf(model, ComposedProcessor(pictures, tokenizer(), LLAVA_NEXT, model.config))


def llava_onevision(most: int = 9) -> HookedMultimodal:
    """LLaVA-OneVision; canvases of more than so many tiles' cells are interpolated to fewer tokens."""
    config = transformers.LlavaOnevisionConfig(
        **_parts("siglip"),
        image_grid_pinpoints=_CANVASES,
        vision_aspect_ratio=f"anyres_max_{most}",
        video_token_index=VOCAB["<|video_pad|>"],
    )
    model = redraw(transformers.LlavaOnevisionForConditionalGeneration(config))
    pictures = transformers.LlavaOnevisionImageProcessorPil(
        size={"height": 32, "width": 32}, image_grid_pinpoints=_CANVASES, resample=BOX
    )
    return HookedMultimodal.from_hf(model, ComposedProcessor(pictures, tokenizer(), LLAVA_ONEVISION, model.config))


TINY = [
    Tiny("vipllava", vipllava),
    Tiny("video_llava", video_llava),
    # five tiles with bars above and below, and three without
    Tiny("llava_next", llava_next, sizes=((48, 64), (64, 32))),
    # resized with a cubic filter: reach is two processed pixels on each side, of up to 2.2 pixels of the picture
    Tiny("llava_next_siglip", lambda: llava_next("siglip", 3), sizes=((50, 70), (41, 33)), reach=7),
    Tiny("llava_next_video", llava_next_video, sizes=((48, 64), (64, 32))),
    Tiny("llava_onevision", llava_onevision, sizes=((64, 48), (32, 64))),
    # 8 x 8 cells to 5 x 5 tokens
    Tiny("llava_onevision_interpolated", lambda: llava_onevision(2), sizes=((64, 64), (32, 64))),
]
