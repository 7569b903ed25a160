"""Tiny models whose towers are timm's: PerceptionLM, FastVLM, Gemma 3n.

transformers makes these towers with timm, which needs torchvision. Neither is among this project's requirements, and none
of it is imported on top here: without them no model can be made, and the tests of these families are skipped.
"""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import transformers
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from transformers.utils import is_timm_available, is_torchvision_available

from mmlens.models.hooked import HookedMultimodal
from tests.tiny import TEXT, VOCAB, Tiny, redraw, tokenizer

_THERE = {"timm": is_timm_available(), "torchvision": is_torchvision_available()}


def _tiny(
    name: str,
    make: Callable[[], HookedMultimodal],
    *,
    sizes: tuple[tuple[int, int], tuple[int, int]] = ((32, 32), (32, 32)),
    reach: float = 0.0,
) -> Tiny:
    """A tiny model, or one whose tests are skipped where it cannot be made."""
    found = Tiny(name, make, sizes=sizes, reach=reach, needs=tuple(_THERE))
    lacking = [package for package, there in _THERE.items() if not there]
    if not lacking:
        return found
    why = f"transformers makes the tower of {name} with {' and '.join(lacking)}, not installed here"
    return replace(found, make=lambda: pytest.skip(why), missing=why)


def perception_lm(pool: int = 2, class_token: bool = True) -> HookedMultimodal:
    """PerceptionLM with a Perception Encoder of three blocks, with or without a class row and pooling."""
    words = tokenizer("<|image|>", ["<|image|>"])
    words.video_token, words.video_token_id = "<|video_pad|>", VOCAB["<|video_pad|>"]
    config = transformers.PerceptionLMConfig(
        vision_config={
            "model_type": "timm_wrapper",
            "architecture": "vit_pe_lang_large_patch14_448",
            "do_pooling": False,
            "model_args": {
                "embed_dim": 24,
                "depth": 3,
                "num_heads": 2,
                "img_size": [32, 32],
                "patch_size": 8,
                "mlp_ratio": 1.5,
                "class_token": class_token,
                "global_pool": "",
                "use_post_transformer_norm": False,
                "init_values": 0.1,
                "ref_feat_shape": [4, 4],
            },
        },
        text_config={"model_type": "llama", **TEXT, "vocab_size": len(words)},
        vision_use_cls_token=class_token,
        projector_pooling_ratio=pool,
        image_token_id=words.image_token_id,
        video_token_id=VOCAB["<|video_pad|>"],
    )
    model = redraw(transformers.PerceptionLMForConditionalGeneration(config))
    with torch.no_grad():
        for block in model.model.vision_tower.timm_model.blocks:
            block.gamma_1 += 0.7
            block.gamma_2 -= 0.7
    pictures = transformers.PerceptionLMImageProcessor(tile_size=32, max_num_tiles=2)
    videos = transformers.PerceptionLMVideoProcessor(size={"height": 32, "width": 32})
    processor = transformers.PerceptionLMProcessor(videos, pictures, words, patch_size=8, pooling_ratio=pool)
    return HookedMultimodal.from_hf(model, processor)


def fast_vlm(*, cut: bool = False) -> HookedMultimodal:
    """FastVLM with a FastViT of five stages, down to a map of 2 x 2.

    Args:
        cut: cut its convolutions' kernels down to what stands in the cell that they write, so that no cell sees another but
            by attention, which shows where a row's pixels are.
    """
    config = transformers.FastVlmConfig(
        vision_config={
            "model_type": "timm_wrapper",
            "architecture": "fastvit_mci3",
            "hidden_size": 128,
            "do_pooling": True,
            "model_args": {
                "inference_mode": True,
                "layers": [1, 1, 2, 1, 2],
                "embed_dims": [8, 16, 16, 32, 64],
                "mlp_ratios": [2, 2, 2, 2, 1],
            },
        },
        text_config={"model_type": "qwen2", **TEXT},
        image_token_index=VOCAB["<image>"],
    )
    model = redraw(transformers.FastVlmForConditionalGeneration(config))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("gamma"):
                parameter += 0.7
        if cut:
            tower = model.model.vision_tower.timm_model
            _cut_kernels(tower)
            tower.final_conv.se.fc2.weight.zero_()  # its gate is then the same for every picture
    size = {"height": 128, "width": 128}
    pictures = CLIPImageProcessorPil(size=size, crop_size=size, do_resize=False)
    processor = transformers.LlavaProcessor(
        pictures, tokenizer(), patch_size=64, vision_feature_select_strategy="full", num_additional_image_tokens=0
    )
    return HookedMultimodal.from_hf(model, processor)


def _cut_kernels(tower: torch.nn.Module) -> None:
    """Set all weights of convolutions to zero but those that see the cell which they write to, and make these larger."""
    for module in tower.modules():
        if isinstance(module, torch.nn.Conv2d):
            side, step = module.kernel_size[0], module.stride[0]
            kept = torch.zeros_like(module.weight)
            # where the cell begins in the kernel: behind the padding, which some add by themselves
            first = int(module.padding[0]) or (side - step) // 2
            kept[..., first : first + step, first : first + step] = side / step
            module.weight.mul_(kept)


_GEMMA_MARKS = (
    *("<start_of_image>", "<start_of_audio>", "<end_of_image>"),
    *("<image_soft_token>", "<end_of_audio>", "<audio_soft_token>"),
)


def gemma3n(*, cut: bool = False, active: int = 0) -> HookedMultimodal:
    """Gemma 3n: a MobileNet down to maps of 4 x 4 and 2 x 2, four blocks of three streams, shared keys, sparse MLPs.

    Args:
        cut: as for `fast_vlm`.
        active: the stream that blocks work on.
    """
    from timm.models._efficientnet_builder import decode_arch_def

    words = tokenizer("<image_soft_token>", _GEMMA_MARKS)
    for name, mark in zip(
        ("boi", "boa", "eoi", "image", "eoa", "audio"), _GEMMA_MARKS, strict=True
    ):  # what the processor asks the tokenizer for
        setattr(words, f"{name}_token", mark)
        setattr(words, f"{name}_token_id", words.convert_tokens_to_ids(mark))
    stages = [
        ["er_r1_k3_s2_e2_c16", "er_r1_k3_s1_e2_c16"],
        ["uir_r1_a3_k5_s2_e2_c24", "uir_r1_a5_k0_s1_e2_c24"],
        ["uir_r1_a5_k5_s2_e2_c32", "mqa_r1_k3_h2_v2_s1_d8_c32", "uir_r1_a0_k0_s1_e2_c32"],
        ["uir_r1_a5_k5_s2_e2_c40", "mqa_r1_k3_h2_s1_d8_c40", "uir_r1_a0_k0_s1_e2_c40"],
    ]
    sliding, full = "sliding_attention", "full_attention"
    config = transformers.Gemma3nConfig(
        vision_config={
            "architecture": "mobilenetv5_300m_enc",
            "hidden_size": 2048,
            "vocab_offset": words.eoi_token_id,
            "vocab_size": 2,
            "model_args": {
                "block_args": decode_arch_def(stages),
                "stem_size": 8,
                "fix_stem": True,
                "msfa_output_resolution": 2,
            },
        },
        text_config={
            **TEXT,
            "head_dim": 8,
            "vocab_size": len(words),
            "vocab_size_per_layer_input": words.eoi_token_id,
            "hidden_size_per_layer_input": 6,
            "num_hidden_layers": 4,
            "layer_types": [sliding, full, sliding, full],
            "sliding_window": 8,
            "num_kv_shared_layers": 2,
            "altup_num_inputs": 3,
            "altup_active_idx": active,
            "laurel_rank": 4,
            "activation_sparsity_pattern": [0.5, 0.0, 0.0, 0.0],
        },
        audio_config={
            "hidden_size": 16,
            "conf_num_attention_heads": 2,
            "conf_num_hidden_layers": 1,
            "vocab_offset": words.eoa_token_id,
            "vocab_size": 2,
        },
        vision_soft_tokens_per_image=4,
        tie_word_embeddings=False,
        **{
            f"{name}_token_id": getattr(words, f"{name}_token_id")
            for name in ("boi", "eoi", "image", "boa", "eoa", "audio")
        },
    )
    model = redraw(transformers.Gemma3nForConditionalGeneration(config))
    # timm puts what it makes of them into the very arguments that it was given
    model.config.vision_config.model_args["block_args"] = decode_arch_def(stages)
    model.generation_config.pad_token_id, model.generation_config.eos_token_id = 0, 2
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("gamma"):
                parameter += 0.7
            if name.endswith("q_norm.weight"):
                parameter *= 0.3  # its scores are not divided by anything: trained gains are small
        if cut:
            _cut_kernels(model.model.vision_tower.timm_model)
    pictures = SiglipImageProcessorPil(size={"height": 64, "width": 64})
    processor = transformers.Gemma3nProcessor(
        transformers.Gemma3nAudioFeatureExtractor(), pictures, words, image_seq_length=4
    )
    return HookedMultimodal.from_hf(model, processor)


_PICTURES = ((128, 128), (128, 128))
_SMALLER = ((64, 64), (64, 64))

TINY = [
    # the whole and two tiles, one above the other or side by side; the whole is resized, with a cubic filter
    _tiny("perception_lm", perception_lm, sizes=((64, 32), (32, 64)), reach=4),
    _tiny("perception_lm_whole", lambda: perception_lm(1, False), sizes=((64, 32), (32, 64)), reach=4),
    # its convolutions reach far: painting can only show that the cells of a box change; it is exact where they are cut
    _tiny("fast_vlm", fast_vlm, sizes=_PICTURES, reach=128),
    _tiny("fast_vlm_cut", lambda: fast_vlm(cut=True), sizes=_PICTURES),
    _tiny("gemma3n", gemma3n, sizes=_SMALLER, reach=64),
    _tiny("gemma3n_cut", lambda: gemma3n(cut=True, active=1), sizes=_SMALLER),
]
