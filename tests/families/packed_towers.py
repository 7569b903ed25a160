"""Tiny models of further families with a packed tower: the thinkers of Qwen-Omni, and others."""

from typing import Any, ClassVar

import torch
from PIL import Image
from torch import nn
from transformers import (
    Dots3NoteConfig,
    Dots3NoteForConditionalGeneration,
    Ernie4_5_VLMoeConfig,
    Ernie4_5_VLMoeForConditionalGeneration,
    Glm46VForConditionalGeneration,
    GlmgaConfig,
    HunYuanVLConfig,
    HunYuanVLForConditionalGeneration,
    Kimi_K25Config,
    Kimi_K25ForConditionalGeneration,
    MiniCPMOcrConfig,
    MiniCPMOcrForConditionalGeneration,
    MiniCPMV4_6Config,
    MiniCPMV4_6ForConditionalGeneration,
    MiniCPMV4_7Config,
    MiniCPMV4_7ForConditionalGeneration,
    MiniMaxM3SparseForConditionalGeneration,
    MiniMaxM3VLConfig,
    Qwen2_5OmniThinkerConfig,
    Qwen2_5OmniThinkerForConditionalGeneration,
    Qwen3OmniMoeThinkerConfig,
    Qwen3OmniMoeThinkerForConditionalGeneration,
)
from transformers.models.ernie4_5_vl_moe.image_processing_pil_ernie4_5_vl_moe import Ernie4_5_VLMoeImageProcessorPil
from transformers.models.glmga.image_processing_pil_glmga import GlmgaImageProcessorPil
from transformers.models.hunyuan_vl.image_processing_pil_hunyuan_vl import HunYuanVLImageProcessorPil
from transformers.models.minicpmv4_6.image_processing_pil_minicpmv4_6 import MiniCPMV4_6ImageProcessorPil
from transformers.models.minimax_m3_vl.modeling_minimax_m3_vl import MiniMaxM3VLRMSNorm
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from mmlens.architectures.families.dots3_note import DOTS3_NOTE
from mmlens.architectures.families.ernie4_5_vl import ERNIE4_5_VL
from mmlens.architectures.families.glm4v import GLM4V
from mmlens.architectures.families.hunyuan_vl import HUNYUAN_VL
from mmlens.architectures.families.kimi_k2_5 import KIMI_K2_5
from mmlens.architectures.families.minimax_m3_vl import MINIMAX_M3_VL
from mmlens.architectures.families.qwen_omni import QWEN2_5_OMNI, QWEN3_OMNI
from mmlens.declarations.family import Family
from mmlens.inputs.processing import ComposedProcessor
from mmlens.models.hooked import HookedMultimodal
from tests.families.qwen_like import QWEN_VISION, ending, rope
from tests.tile_processor import TileProcessor, pixels_of
from tests.tiny import TEXT, VOCAB, Tiny, tokenizer

_AUDIO: dict[str, Any] = {
    "d_model": 16,
    "encoder_layers": 1,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 16,
    "num_mel_bins": 8,
    "output_dim": 32,
    "max_source_positions": 20,
    "n_window": 4,
}
_TOWER: dict[str, Any] = {
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
}
_SIZES = ((32, 32), (48, 80))


def _hooked(
    model: nn.Module,
    family: Family,
    token: str = "<|image_pad|>",
    more: tuple[str, ...] = (),
    pictures: Any = None,
) -> HookedMultimodal:
    """The model with an image processor, Qwen2-VL's by default."""
    drawn = ending(model)
    for module in drawn.modules():
        if isinstance(module, MiniMaxM3VLRMSNorm):
            module.weight.data -= 1  # the gain's distance from 1
    if pictures is None:
        pictures = Qwen2VLImageProcessorPil(
            patch_size=8, merge_size=2, size={"shortest_edge": 256, "longest_edge": 4096}
        )
    return HookedMultimodal.from_hf(
        drawn, ComposedProcessor(pictures, tokenizer(token, more=more), family, drawn.config)
    )


def qwen2_5_omni() -> HookedMultimodal:
    """The thinker of Qwen2.5-Omni: windows in the first and last vision block."""
    more = ("<|vision_bos|>", "<|IMAGE|>", "<|vision_eos|>", "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>")
    ids = {word: len(VOCAB) + number for number, word in enumerate(more)}
    config = Qwen2_5OmniThinkerConfig(
        audio_config=_AUDIO,
        vision_config={**QWEN_VISION, "window_size": 32, "fullatt_block_indexes": [1]},
        text_config={
            **TEXT,
            "vocab_size": len(VOCAB) + len(more),
            "rope_parameters": rope(1, 1, 2),
            "tie_word_embeddings": False,
        },
        image_token_index=ids["<|IMAGE|>"],
        video_token_index=VOCAB["<|video_pad|>"],
        audio_token_index=ids["<|AUDIO|>"],
        audio_start_token_id=ids["<|audio_bos|>"],
        audio_end_token_id=ids["<|audio_eos|>"],
        vision_start_token_id=ids["<|vision_bos|>"],
    )
    return _hooked(Qwen2_5OmniThinkerForConditionalGeneration(config), QWEN2_5_OMNI, "<|IMAGE|>", more)


def qwen3_omni() -> HookedMultimodal:
    """The thinker of Qwen3-Omni: DeepStack from two vision blocks, a dense language block between two mixtures."""
    more = ("<|audio_pad|>", "<|audio_start|>")
    text: dict[str, Any] = {
        **TEXT,
        "vocab_size": len(VOCAB) + len(more),
        "head_dim": 8,
        "rope_parameters": rope(2, 1, 1),
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 24,
        "mlp_only_layers": [1],
    }
    config = Qwen3OmniMoeThinkerConfig(
        audio_config={**_AUDIO, "downsample_hidden_size": 8},
        vision_config={**QWEN_VISION, "num_position_embeddings": 16, "deepstack_visual_indexes": [0, 1]},
        text_config=text,
        image_token_id=VOCAB["<|image_pad|>"],
        video_token_id=VOCAB["<|video_pad|>"],
        audio_token_id=len(VOCAB),
        audio_start_token_id=len(VOCAB) + 1,
        vision_start_token_id=VOCAB["<|vision_start|>"],
    )
    return _hooked(Qwen3OmniMoeThinkerForConditionalGeneration(config), QWEN3_OMNI, more=more)


def ernie4_5_vl() -> HookedMultimodal:
    """ERNIE 4.5 VL: a dense block, and two mixtures with experts for pictures."""
    more = ("<|IMAGE_START|>", "<|IMAGE_PLACEHOLDER|>", "<|IMAGE_END|>")
    ids = {word: len(VOCAB) + number for number, word in enumerate(more)}
    vision = {key: held for key, held in QWEN_VISION.items() if key not in ("out_hidden_size", "temporal_patch_size")}
    config = Ernie4_5_VLMoeConfig(
        vision_config=vision,
        text_config={
            **TEXT,
            "vocab_size": len(VOCAB) + len(more),
            "rope_parameters": rope(1, 1, 2),
            "moe_intermediate_size": [24, 16],
            "moe_k": 2,
            "moe_num_experts": 4,
            "moe_num_shared_experts": 1,
        },
        image_start_token_id=ids["<|IMAGE_START|>"],
        image_end_token_id=ids["<|IMAGE_END|>"],
        image_token_id=ids["<|IMAGE_PLACEHOLDER|>"],
        video_token_id=VOCAB["<|video_pad|>"],
        video_start_token_id=VOCAB["<|vision_start|>"],
        video_end_token_id=VOCAB["<|vision_end|>"],
        tie_word_embeddings=False,
    )
    pictures = Ernie4_5_VLMoeImageProcessorPil(
        patch_size=8, merge_size=2, size={"shortest_edge": 256, "longest_edge": 4096}
    )
    model = Ernie4_5_VLMoeForConditionalGeneration(config)
    return _hooked(model, ERNIE4_5_VL, "<|IMAGE_PLACEHOLDER|>", more, pictures)


def glmga() -> HookedMultimodal:
    """GLM-4.6V under the configuration and with the image processor of its successor."""
    more = ("<|begin_of_image|>", "<|image|>", "<|end_of_image|>")
    ids = {word: len(VOCAB) + number for number, word in enumerate(more)}
    config: Any = GlmgaConfig(
        vision_config={"model_type": "glm4v_vision", **QWEN_VISION, "image_size": 32},
        text_config={
            "model_type": "glm4v_text",
            **TEXT,
            "vocab_size": len(VOCAB) + len(more),
            "rope_parameters": rope(1, 1, 2, partial_rotary_factor=1.0),
        },
        image_token_id=ids["<|image|>"],
        video_token_id=VOCAB["<|video_pad|>"],
        image_start_token_id=ids["<|begin_of_image|>"],
        image_end_token_id=ids["<|end_of_image|>"],
    )
    options: dict[str, Any] = {"patch_size": 8, "merge_size": 2}
    pictures = GlmgaImageProcessorPil(**options, size={"shortest_edge": 512, "longest_edge": 8192})
    return _hooked(Glm46VForConditionalGeneration(config), GLM4V, "<|image|>", more, pictures)


class RasterProcessor:
    """What Kimi's image processor does, which cannot be imported without torchvision: pads, and cuts in raster order."""

    patch_size = 8
    max_patches = 1000
    size: ClassVar[dict[str, int]] = {"max_height": 512, "max_width": 512}

    def __call__(self, images: list[Any], **options: Any) -> dict[str, torch.Tensor]:
        flat = [image for held in images for image in (held if isinstance(held, list) else [held])]
        pieces, shapes = [], []
        for image in flat:
            whole = Image.new("RGB", (-(-image.width // 16) * 16, -(-image.height // 16) * 16))
            whole.paste(image)
            rows = pixels_of(whole).unfold(0, 8, 8).unfold(1, 8, 8)
            pieces.append(rows.flatten(0, 1))
            shapes.append([1, *rows.shape[:2]])
        return {"pixel_values": torch.cat(pieces), "image_grid_thw": torch.tensor(shapes)}


def kimi_k2_5() -> HookedMultimodal:
    """Kimi K2.5: latent attention with heads that compare 12 numbers and read 8; a dense block and two mixtures."""
    more = ("<|media_pad|>", "<|media_begin|>", "<|media_content|>", "<|media_end|>")
    text = {
        "model_type": "deepseek_v3",
        **TEXT,
        "vocab_size": len(VOCAB) + len(more),
        "num_key_value_heads": 4,
        "q_lora_rank": 16,
        "kv_lora_rank": 12,
        "qk_nope_head_dim": 8,
        "qk_rope_head_dim": 4,
        "v_head_dim": 8,
        "moe_intermediate_size": 24,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "n_shared_experts": 1,
        "n_group": 1,
        "topk_group": 1,
        "first_k_dense_replace": 1,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    }
    config = Kimi_K25Config(
        vision_config={
            **_TOWER,
            "patch_size": 8,
            "pos_emb_height": 4,
            "pos_emb_width": 4,
        },
        text_config=text,
        projection_hidden_size=24,
        image_token_id=len(VOCAB),
        video_token_id=VOCAB["<|video_pad|>"],
        tie_word_embeddings=False,
    )
    model = Kimi_K25ForConditionalGeneration(config)
    return _hooked(model, KIMI_K2_5, more[0], more, RasterProcessor())


def minimax_m3_vl() -> HookedMultimodal:
    """MiniMax M3: blocks with and without an indexer, dense and as mixtures."""
    more = ("]<]image[>[", "]<]start of image[>[", "]<]end of image[>[")
    config = MiniMaxM3VLConfig(
        vision_config={**_TOWER, "patch_size": 8, "image_size": 32},
        text_config={
            **TEXT,
            "vocab_size": len(VOCAB) + len(more),
            "head_dim": 8,
            "rotary_dim": 4,
            "intermediate_size": 24,
            "dense_intermediate_size": 48,
            "shared_intermediate_size": 24,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "layer_types": ["full_attention", "minimax_m3_sparse", "minimax_m3_sparse"],
            "mlp_layer_types": ["dense", "sparse", "sparse"],
            "index_n_heads": 2,
            "index_head_dim": 4,
            "index_block_size": 4,
            "index_topk_blocks": 2,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5},
        },
        projector_hidden_size=40,
        image_token_index=len(VOCAB),
        video_token_index=VOCAB["<|video_pad|>"],
    )
    return _hooked(MiniMaxM3SparseForConditionalGeneration(config), MINIMAX_M3_VL, more[0], more)


def hunyuan_vl() -> HookedMultimodal:
    """HunyuanVL: four kinds of rotary positions."""
    more = HUNYUAN_VL.placeholder.replace("><", ">\n<").split("\n")
    config = HunYuanVLConfig(
        vision_config={**_TOWER, "patch_size": 8, "max_image_size": 32},
        text_config={
            **TEXT,
            "vocab_size": len(VOCAB) + len(more),
            "head_dim": 8,
            "rope_parameters": rope(1, 1, 1, 1),
            "tie_word_embeddings": False,
        },
        image_token_id=len(VOCAB) + 1,
        im_start_id=len(VOCAB),
        im_end_id=len(VOCAB) + 2,
        tie_word_embeddings=False,
    )
    pictures = HunYuanVLImageProcessorPil(patch_size=8, merge_size=2, size={"shortest_edge": 256, "longest_edge": 4096})
    return _hooked(HunYuanVLForConditionalGeneration(config), HUNYUAN_VL, more[1], tuple(more), pictures)


class Slices:
    """MiniCPM-V's image processor, and the text that its processor, which needs torchvision, writes for a picture."""

    def __init__(self, mode: str):
        settings: dict[str, Any] = {"patch_size": 4, "scale_resolution": 32, "downsample_mode": mode}
        self.inner = MiniCPMV4_6ImageProcessorPil(**settings)
        self.divisor = 4 if mode == "4x" else 16

    def __call__(self, images: list[Any], **options: Any) -> dict[str, torch.Tensor]:
        made = self.inner(images, return_tensors="pt")
        return {name: made[name] for name in ("pixel_values", "target_sizes")}

    def text(self, image: Image.Image) -> str:
        """The text of a picture."""
        made = self.inner([image], return_tensors="pt")
        whole, *slices = ["<|image_pad|>" * int(count) for count in made["target_sizes"].prod(-1) // self.divisor]
        columns = made["grids"][0][1] or 1
        lines = [slices[start : start + columns] for start in range(0, len(slices), columns)]
        return f"<image>{whole}</image>" + "\n".join(
            "".join(f"<slice>{each}</slice>" for each in line) for line in lines
        )


def minicpm(model_class: Any, config_class: Any, mode: str, **marks: str) -> HookedMultimodal:
    """MiniCPM-V: the tower merges squares behind its first block of three, unless the mode is "4x"."""
    more = ("</image>", "<slice>", "</slice>", "\n")
    words = tokenizer("<|image_pad|>", more=more)
    config = config_class(
        vision_config={**_TOWER, "patch_size": 4, "image_size": 32},
        text_config={
            "model_type": "qwen3_5_text",
            **TEXT,
            "vocab_size": len(words),
            "head_dim": 16,
            "num_hidden_layers": 2,  # with a third, rounding in delta nets exceeds what parity with all hooks allows
            "layer_types": ["linear_attention", "full_attention"],
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 6,
            "rope_parameters": rope(2, 1, 1, partial_rotary_factor=0.5),
        },
        insert_layer_id=0,
        image_token_id=VOCAB["<|image_pad|>"],
        video_token_id=VOCAB["<|video_pad|>"],
        tie_word_embeddings=False,
        downsample_mode=mode,
        **{name: words.convert_tokens_to_ids(word) for name, word in marks.items()},
    )
    slices = Slices(mode)
    model = ending(model_class(config))
    return HookedMultimodal.from_hf(model, TileProcessor(words, slices, "<|image_pad|>", slices.text))


#: What MiniCPM-V 4.7 is told of its marks.
_MARKS = {
    "image_start_id": "<image>",
    "image_end_id": "</image>",
    "slice_start_id": "<slice>",
    "slice_end_id": "</slice>",
    "newline_id": "\n",
}
_CUT = ((32, 32), (64, 64))


def dots3_note() -> HookedMultimodal:
    """dots3: two indexed blocks around one with a window, which has half as many heads; a mixture ends the tower."""
    more = ("<|imgpad|>", "<|img|>", "<|endofimg|>", "<|audio_comp_pad|>")
    text: dict[str, Any] = {
        **TEXT,
        "vocab_size": len(VOCAB) + len(more),
        "num_key_value_heads": 4,
        "head_dim": 16,
        "q_lora_rank": 16,
        "kv_lora_rank": 12,
        "qk_nope_head_dim": 12,
        "qk_rope_head_dim": 4,
        "v_head_dim": 8,
        "moe_intermediate_size": 24,
        "shared_experts_intermediate_size": 24,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "index_topk": 6,
        "index_head_dim": 8,
        "index_n_heads": 16,  # with few, keys tie at zero, and which of them are picked hangs on the text's length
        "sliding_window": 8,
        "layer_types": ["indexed_attention", "sliding_attention", "indexed_attention"],
        "swa_num_attention_heads": 2,
        "swa_num_key_value_heads": 2,
        "swa_q_lora_rank": 16,
        "swa_kv_lora_rank": 12,
        "swa_head_dim": 16,
        "swa_qk_nope_head_dim": 12,
        "swa_v_head_dim": 8,
    }
    config = Dots3NoteConfig(
        vision_config={
            **_TOWER,
            "patch_size": 8,
            "adapter_in_dim": 24,
            "adapter_out_dim": 32,
            "moe_intermediate_size": 20,
            "pyramid_num_routed": [-1, -1, 4],
        },
        text_config=text,
        audio_config={
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "feature_size": 8,
            "downsample_hidden_size": 8,
            "adapter_input_size": 16,
            "adapter_out_dim": 32,
        },
        image_token_id=len(VOCAB),
        video_token_id=VOCAB["<|video_pad|>"],
        audio_token_id=len(VOCAB) + 3,
    )
    pictures = Qwen2VLImageProcessorPil(
        patch_size=8, merge_size=2, temporal_patch_size=1, size={"shortest_edge": 256, "longest_edge": 4096}
    )
    return _hooked(Dots3NoteForConditionalGeneration(config), DOTS3_NOTE, more[0], more, pictures)


TINY = [
    Tiny("qwen2_5_omni", qwen2_5_omni, sizes=_SIZES),
    Tiny("qwen3_omni", qwen3_omni, sizes=_SIZES),
    Tiny("ernie4_5_vl", ernie4_5_vl, sizes=_SIZES),
    Tiny("glmga", glmga, sizes=_SIZES),
    Tiny("kimi_k2_5", kimi_k2_5, sizes=((30, 32), (48, 75))),
    # its blocks of keys are counted from the padding on, so that padded samples differ from lone ones in Hugging Face
    Tiny("minimax_m3_vl", minimax_m3_vl, sizes=(_SIZES[1], _SIZES[1]), padded=False),
    Tiny("hunyuan_vl", hunyuan_vl, sizes=_SIZES),
    Tiny(
        "minicpm_v_4_6",
        lambda: minicpm(MiniCPMV4_6ForConditionalGeneration, MiniCPMV4_6Config, "16x"),
        sizes=_CUT,
        reach=8,
    ),
    Tiny(
        "minicpm_ocr",
        lambda: minicpm(MiniCPMOcrForConditionalGeneration, MiniCPMOcrConfig, "4x"),
        sizes=_CUT,
        reach=8,
    ),
    Tiny(
        "minicpm_v_4_7",
        lambda: minicpm(MiniCPMV4_7ForConditionalGeneration, MiniCPMV4_7Config, "16x", **_MARKS),
        sizes=_CUT,
        reach=8,
    ),
    Tiny("dots3_note", dots3_note, sizes=_SIZES),
]
