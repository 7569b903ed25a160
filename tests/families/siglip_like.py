"""Tiny models of families that look through a SigLIP-like tower: DeepSeek-VL, Janus, Ovis 2, LFM2-VL."""

import torch
from PIL import Image
from torch import nn
from transformers import (
    DeepseekVLConfig,
    DeepseekVLForConditionalGeneration,
    DeepseekVLProcessor,
    JanusConfig,
    JanusForConditionalGeneration,
    JanusProcessor,
    Lfm2VlConfig,
    Lfm2VlForConditionalGeneration,
    Ovis2Config,
    Ovis2ForConditionalGeneration,
    Ovis2Processor,
)
from transformers.models.deepseek_vl.image_processing_pil_deepseek_vl import DeepseekVLImageProcessorPil
from transformers.models.janus.image_processing_pil_janus import JanusImageProcessorPil
from transformers.models.ovis2.image_processing_pil_ovis2 import Ovis2ImageProcessorPil

from mmlens.models.hooked import HookedMultimodal
from tests.tile_processor import TileProcessor, pixels_of, tiles_of
from tests.tiny import BOX, TEXT, VISION, Tiny, ending, tokenizer

_IMAGE = "<image_placeholder>"
_MARKS = ("<begin_of_image>", "<end_of_image>")
_ATOM = "<IMG_ATOM>"
_INDICATORS = ("<IMG_START>", "<IMG_GRID>", "<IMG_COL>", "<IMG_ROW>", "<IMG_END>")

_TEXT = {**TEXT, "max_position_embeddings": 512}


def deepseek_vl() -> HookedMultimodal:
    """DeepSeek-VL: pictures are fitted into a square."""
    words = tokenizer(_IMAGE, [_IMAGE])
    config = DeepseekVLConfig(
        vision_config={"model_type": "siglip_vision_model", "vision_use_head": False, **VISION},
        text_config={"model_type": "llama", **_TEXT, "vocab_size": len(words)},
        image_token_id=words.image_token_id,
    )
    image_processor = DeepseekVLImageProcessorPil(size={"height": 32, "width": 32}, min_size=4)
    processor = DeepseekVLProcessor(image_processor, words, num_image_tokens=16)
    return HookedMultimodal.from_hf(ending(DeepseekVLForConditionalGeneration(config)), processor)


def janus() -> HookedMultimodal:
    """Janus, as far as it reads pictures."""
    words = tokenizer(_IMAGE, [_IMAGE, *_MARKS])
    words.boi_token, words.eoi_token = _MARKS
    vision = {key: value for key, value in VISION.items() if key != "intermediate_size"}
    config = JanusConfig(
        vision_config={**vision, "mlp_ratio": 2.0, "projection_dim": 32, "num_image_tokens": 16, "use_qk_norm": False},
        text_config={"model_type": "llama", **_TEXT, "vocab_size": len(words)},
        vq_config={
            "embed_dim": 4,
            "num_embeddings": 8,
            "latent_channels": 32,
            "base_channels": 32,
            "channel_multiplier": [1, 1],
            "num_res_blocks": 1,
            "projection_dim": 32,
            "image_token_embed_dim": 32,
        },
        image_token_id=words.image_token_id,
    )
    image_processor = JanusImageProcessorPil(size={"height": 32, "width": 32}, min_size=4)
    processor = JanusProcessor(image_processor, words, num_image_tokens=16)
    return HookedMultimodal.from_hf(ending(JanusForConditionalGeneration(config)), processor)


def ovis2(*, cut: bool = True) -> HookedMultimodal:
    """Ovis 2: squares of 2 x 2 patches become one visual word; pictures are cut into tiles if asked to."""
    words = tokenizer("<image>", [_ATOM, *_INDICATORS])
    config = Ovis2Config(
        vision_config={**VISION, "vocab_size": 20, "hidden_stride": 2},
        text_config={"model_type": "qwen2", **_TEXT, "vocab_size": len(words)},
        image_token_id=words.convert_tokens_to_ids(_ATOM),
        visual_indicator_token_ids=words.convert_tokens_to_ids(list(_INDICATORS)),
        vocab_size=len(words),
        hidden_size=32,
    )
    image_processor = Ovis2ImageProcessorPil(
        size={"height": 32, "width": 32}, crop_to_patches=cut, max_patches=4, resample=BOX
    )
    processor = Ovis2Processor(image_processor, words, image_seq_length=4)
    return HookedMultimodal.from_hf(ending(Ovis2ForConditionalGeneration(config)), processor)


class _Flexible:
    """What LFM2-VL's image processor does: pictures of 32 x 48 pixels stay whole, larger ones are cut into tiles."""

    use_thumbnail = True

    def seen(self, image: Image.Image) -> list[Image.Image]:
        """The entries of a picture: its tiles and its half-sized whole, or itself."""
        if image.height * image.width <= 32 * 48:
            return [image]
        return [*tiles_of(image, 32), image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)]

    def __call__(self, images: list[Image.Image], return_tensors: str) -> dict[str, torch.Tensor]:
        entries = [entry for image in images for entry in self.seen(image)]
        shapes = [(entry.height // 8, entry.width // 8) for entry in entries]
        rows = [
            pixels_of(entry).view(shape[0], 8, shape[1], 8, 3).transpose(1, 2).reshape(-1, 8 * 8 * 3)
            for entry, shape in zip(entries, shapes, strict=True)
        ]
        mask = torch.tensor([[int(patch < len(row)) for patch in range(24)] for row in rows])
        padded = torch.stack([nn.functional.pad(row, (0, 0, 0, 24 - len(row))) for row in rows])
        return {"pixel_values": padded, "pixel_attention_mask": mask, "spatial_shapes": torch.tensor(shapes)}

    def marked(self, image: Image.Image) -> str:
        """The text of a picture, with a token in front of every entry if there are several."""
        entries = self.seen(image)
        runs = ["<image>" * (entry.height // 16 * (entry.width // 16)) for entry in entries]
        between = "<|tile|>" if len(runs) > 1 else ""
        return "<|image_start|>" + "".join(between + run for run in runs) + "<|image_end|>"


def lfm2_vl() -> HookedMultimodal:
    """LFM2-VL: two layers of convolution around one of attention; one picture in tiles, one as it is."""
    words = tokenizer("<image>", ["<|image_start|>", "<|image_end|>", "<|tile|>"])
    vision = {key: value for key, value in VISION.items() if key != "image_size"}
    config = Lfm2VlConfig(
        vision_config={"model_type": "siglip2_vision_model", "vision_use_head": False, "num_patches": 16, **vision},
        text_config={
            **_TEXT,
            "model_type": "lfm2",
            "vocab_size": len(words),
            "block_auto_adjust_ff_dim": False,
            "layer_types": ["conv", "full_attention", "conv"],
        },
        image_token_id=words.image_token_id,
        projector_hidden_size=28,
    )
    model = ending(Lfm2VlForConditionalGeneration(config))
    flexible = _Flexible()
    return HookedMultimodal.from_hf(model, TileProcessor(words, flexible, "<image>", flexible.marked))


_FITTED = ((32, 32), (16, 32))

TINY = [
    Tiny("deepseek_vl", deepseek_vl, sizes=_FITTED),
    Tiny("janus", janus, sizes=_FITTED),
    Tiny("ovis2", ovis2, sizes=((64, 64), (32, 64))),
    Tiny("lfm2_vl", lfm2_vl, sizes=((64, 64), (32, 48))),
    Tiny("ovis2_whole", lambda: ovis2(cut=False)),
]
