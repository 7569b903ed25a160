"""Folders as the hub has them: real fields, real special tokens, real picture sizes; few layers and narrow ones.

Each `Layout` writes what a checkpoint of its kind consists of: `config.json`, weights in shards with an index and under the
names that the hub has, `preprocessor_config.json`, tokenizer files, and the chat template where checkpoints of its kind keep it.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing

from tests.checkpoints import templates
from tests.checkpoints.words import byte_level, clip_pieces, save, sentence_piece

Place = Literal["chat_template.jinja", "chat_template.json", "processor_config.json", "tokenizer_config.json", "none"]

_TEXT: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32768,
}
_VISION: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
_CLIP = {"image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]}
_HALF = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
_IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}


@dataclass(frozen=True)
class Words:
    """The tokenizer of a layout.

    Attributes:
        backend: what is in `tokenizer.json`.
        config: what is in `tokenizer_config.json`.
    """

    backend: Tokenizer
    config: dict[str, Any]

    def id(self, token: str) -> int:
        """The id of a token."""
        return self.backend.token_to_id(token)

    @property
    def size(self) -> int:
        """Number of tokens."""
        return self.backend.get_vocab_size()


def _llama_words(*special: str, **config: Any) -> Words:
    """As Llama 2's."""
    backend = sentence_piece(("<unk>", "<s>", "</s>"), special, bos="<s>")
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<unk>", "legacy": False}
    return Words(backend, {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, **names, **config})


def _qwen_words(*special: str, **config: Any) -> Words:
    """As Qwen2's, which puts nothing in front of a text."""
    backend = byte_level(("<|endoftext|>", "<|im_start|>", "<|im_end|>", *special))
    names = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "model_max_length": 32768}
    return Words(backend, {"tokenizer_class": "Qwen2Tokenizer", "add_prefix_space": False, **names, **config})


def _gemma_words(*special: str, **config: Any) -> Words:
    """As Gemma's, whose texts begin with no blank."""
    backend = sentence_piece(("<pad>", "<eos>", "<bos>", "<unk>"), special, bos="<bos>", prefix=False)
    names = {"bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>", "pad_token": "<pad>"}
    return Words(backend, {"tokenizer_class": "PreTrainedTokenizerFast", **names, **config})


def _llama3_words(*special: str, pad: str, **config: Any) -> Words:
    """As Llama 3's."""
    first = ("<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>")
    backend = byte_level((*first, *special), bos="<|begin_of_text|>")
    names = {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>", "pad_token": pad}
    return Words(backend, {"tokenizer_class": "PreTrainedTokenizerFast", **names, **config})


@dataclass(frozen=True)
class Layout:
    """One kind of checkpoint.

    Attributes:
        name: as people call it.
        words: its tokenizer.
        config: the fields of its configuration, given the tokenizer.
        config_class: the class of its configuration.
        preprocessor: `preprocessor_config.json`.
        processor: `processor_config.json`, if it has one.
        template: its chat template, and the file that it is kept in.
        second_words: a second tokenizer and the folder that it lies in.
        sizes: (height, width) of pictures that are painted.
        needs_torchvision: whether transformers' own processor can be built only where torchvision is.
        more_weights: tensors that checkpoints of its kind hold besides, given the configuration.
        nested_tower: whether the hub's names of the tower have a level more than those that transformers writes today.
    """

    name: str
    words: Callable[[], Words]
    config: Callable[[Words], dict[str, Any]]
    config_class: str
    preprocessor: dict[str, Any]
    processor: dict[str, Any] | None = None
    template: tuple[Place, str] = ("none", "")
    second_words: tuple[str, Callable[[], Words]] | None = None
    sizes: tuple[tuple[int, int], ...] = ((480, 640),)
    needs_torchvision: bool = False
    nested_tower: bool = False
    video: dict[str, Any] | None = None
    more_weights: Callable[[Any], dict[str, torch.Tensor]] | None = None

    def write(self, folder: Path, *, weights: bool = True) -> Path:
        """Write the folder."""
        folder.mkdir(parents=True, exist_ok=True)
        words = self.words()
        place, template = self.template
        own = {"chat_template": template} if place == "tokenizer_config.json" else {}
        save(words.backend, folder, {**words.config, **own})
        if place == "chat_template.jinja":
            (folder / place).write_text(template, encoding="utf-8")
        elif place == "chat_template.json":
            _write(folder / place, {"chat_template": template})
        _write(folder / "preprocessor_config.json", self.preprocessor)
        if self.video is not None:
            _write(folder / "video_preprocessor_config.json", self.video)
        if self.processor is not None:
            own = {"chat_template": template} if place == "processor_config.json" else {}
            _write(folder / "processor_config.json", {**self.processor, **own})
        if self.second_words is not None:
            where, other = self.second_words
            save(other().backend, folder / where, other().config)
        config = getattr(transformers, self.config_class)(**self.config(words))
        if not weights:
            config.architectures = [_model_class(config).__name__]
            config.save_pretrained(folder)
            return folder
        torch.manual_seed(0)
        model = _model_class(config)._from_config(config).eval()
        for parameter in model.parameters():  # zero biases and unit gains hide what is lost
            parameter.data.add_(torch.randn_like(parameter) * 0.05)
        if self.more_weights is not None:
            for name, value in self.more_weights(config).items():
                owner, _, buffer = name.rpartition(".")
                model.get_submodule(owner).register_buffer(buffer, value, persistent=True)
        if hasattr(model, "generation_config"):
            model.generation_config.update(
                **{
                    key: _first(getattr(config.get_text_config(), key, None))
                    for key in ("eos_token_id", "pad_token_id")
                }
            )
        model.save_pretrained(folder, max_shard_size="60KB")
        if self.nested_tower:
            _rename(folder, "vision_tower.", "vision_tower.vision_model.")
        return folder


def _rename(folder: Path, old: str, new: str) -> None:
    """Give weights whose names begin with `old` names that begin with `new`, in all shards and in the index."""

    def named(name: str) -> str:
        return new + name.removeprefix(old) if name.startswith(old) else name

    for shard in folder.glob("*.safetensors"):
        save_file({named(name): tensor for name, tensor in load_file(shard).items()}, shard, metadata={"format": "pt"})
    file = folder / "model.safetensors.index.json"
    index = json.loads(file.read_text(encoding="utf-8"))
    _write(file, {**index, "weight_map": {named(name): shard for name, shard in index["weight_map"].items()}})


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, list) else value


def _model_class(config: Any) -> Any:
    listed = transformers.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    return listed[type(config)] if type(config) in listed else transformers.MODEL_MAPPING[type(config)]


def _write(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False), encoding="utf-8")


def _text(words: Words, kind: str, eos: str, **more: Any) -> dict[str, Any]:
    """The configuration of a language model of a kind, with the special tokens of its tokenizer."""
    config = words.config
    ids = {
        key: words.id(token)
        for key, token in (
            ("bos_token_id", config.get("bos_token")),
            ("eos_token_id", eos),
            ("pad_token_id", config["pad_token"]),
        )
        if token is not None
    }
    return {"model_type": kind, **_TEXT, "vocab_size": words.size, **ids, **more}


def _siglip(size: int) -> dict[str, Any]:
    return {
        "model_type": "siglip_vision_model",
        **_VISION,
        "image_size": size,
        "patch_size": 14,
        "vision_use_head": False,
    }


def _llava(words: Words) -> dict[str, Any]:
    return {
        "vision_config": {"model_type": "clip_vision_model", **_VISION, "image_size": 336, "patch_size": 14},
        "text_config": _text(words, "llama", "</s>"),
        "image_token_index": words.id("<image>"),
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
    }


_CLIP_336 = {
    "do_resize": True,
    "size": {"shortest_edge": 336},
    "resample": 3,
    "do_center_crop": True,
    "crop_size": {"height": 336, "width": 336},
    "do_rescale": True,
    "do_normalize": True,
    "do_convert_rgb": True,
    **_CLIP,
}
_PINPOINTS = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
_MANY = [[384 * rows, 384 * columns] for rows in range(1, 7) for columns in range(1, 7)]

LLAVA = Layout(
    "llava-1.5",
    lambda: _llama_words("<image>", "<pad>", pad_token="<pad>"),
    _llava,
    "LlavaConfig",
    {"image_processor_type": "CLIPImageProcessor", "processor_class": "LlavaProcessor", **_CLIP_336},
    {
        "image_token": "<image>",
        "num_additional_image_tokens": 1,
        "patch_size": 14,
        "processor_class": "LlavaProcessor",
        "vision_feature_select_strategy": "default",
    },
    ("chat_template.json", templates.LLAVA),
    nested_tower=True,
)
LLAVA_NEXT = Layout(
    "llava-next",
    lambda: _llama_words("<image>", "<pad>", pad_token="<pad>"),
    lambda words: {
        **_llava(words),
        "text_config": _text(words, "mistral", "</s>"),
        "image_grid_pinpoints": _PINPOINTS,
    },
    "LlavaNextConfig",
    {
        "image_processor_type": "LlavaNextImageProcessor",
        "processor_class": "LlavaNextProcessor",
        **_CLIP_336,
        "do_pad": True,
        "image_grid_pinpoints": _PINPOINTS,
    },
    {
        "image_token": "<image>",
        "num_additional_image_tokens": 1,
        "patch_size": 14,
        "processor_class": "LlavaNextProcessor",
        "vision_feature_select_strategy": "default",
    },
    ("chat_template.json", templates.LLAVA_NEXT),
    nested_tower=True,
    sizes=((672, 672), (480, 640), (300, 900)),
)
ONEVISION = Layout(
    "onevision",
    lambda: _qwen_words("<image>", "<video>"),
    lambda words: {
        "vision_config": {
            "model_type": "siglip_vision_model",
            **_VISION,
            "image_size": 384,
            "patch_size": 14,
            "vision_use_head": False,
        },
        "text_config": _text(words, "qwen2", "<|im_end|>"),
        "image_token_index": words.id("<image>"),
        "video_token_index": words.id("<video>"),
        "image_grid_pinpoints": _MANY,
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "full",
        "vision_aspect_ratio": "anyres_max_9",
    },
    "LlavaOnevisionConfig",
    {
        "image_processor_type": "LlavaOnevisionImageProcessor",
        "processor_class": "LlavaOnevisionProcessor",
        "do_resize": True,
        "size": {"height": 384, "width": 384},
        "resample": 3,
        "do_pad": True,
        "do_rescale": True,
        "do_normalize": True,
        "do_convert_rgb": True,
        "image_grid_pinpoints": _MANY,
        **_HALF,
    },
    {
        "image_token": "<image>",
        "video_token": "<video>",
        "num_image_tokens": 729,
        "processor_class": "LlavaOnevisionProcessor",
        "vision_feature_select_strategy": "full",
    },
    ("chat_template.json", templates.ONEVISION),
    nested_tower=True,
    sizes=((1500, 1900), (480, 640), (384, 384)),
    needs_torchvision=True,
    video={
        "video_processor_type": "LlavaOnevisionVideoProcessor",
        "processor_class": "LlavaOnevisionProcessor",
        "do_resize": True,
        "size": {"height": 384, "width": 384},
        "resample": 3,
        **_HALF,
    },
)


_SEEING = ("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>")


def _qwen_ids(words: Words) -> dict[str, Any]:
    return {
        "image_token_id": words.id("<|image_pad|>"),
        "video_token_id": words.id("<|video_pad|>"),
        "vision_start_token_id": words.id("<|vision_start|>"),
        "vision_end_token_id": words.id("<|vision_end|>"),
    }


def _qwen2_vl(words: Words) -> dict[str, Any]:
    return {
        "vision_config": {
            "depth": 2,
            "embed_dim": 16,
            "hidden_size": 32,
            "num_heads": 2,
            "mlp_ratio": 2,
            "patch_size": 14,
        },
        "text_config": _text(
            words, "qwen2_vl_text", "<|im_end|>", rope_scaling={"type": "mrope", "mrope_section": [1, 1, 2]}
        ),
        **_qwen_ids(words),
    }


_QWEN_PIXELS = {
    "image_processor_type": "Qwen2VLImageProcessor",
    "min_pixels": 3136,
    "max_pixels": 12845056,
    "patch_size": 14,
    "temporal_patch_size": 2,
    "merge_size": 2,
    **_CLIP,
}
QWEN2_VL = Layout(
    "qwen2-vl",
    lambda: _qwen_words(*_SEEING),
    _qwen2_vl,
    "Qwen2VLConfig",
    {**_QWEN_PIXELS, "processor_class": "Qwen2VLProcessor"},
    template=("chat_template.json", templates.QWEN2_VL),
    needs_torchvision=True,
)
QWEN2_5_VL = Layout(
    "qwen2.5-vl",
    lambda: _qwen_words(*_SEEING),
    lambda words: {
        **_qwen2_vl(words),
        "vision_config": {
            "depth": 2,
            "hidden_size": 16,
            "out_hidden_size": 32,
            "num_heads": 2,
            "intermediate_size": 24,
            "patch_size": 14,
            "window_size": 112,
            "fullatt_block_indexes": [1],
        },
        "text_config": _text(
            words, "qwen2_5_vl_text", "<|im_end|>", rope_scaling={"type": "mrope", "mrope_section": [1, 1, 2]}
        ),
    },
    "Qwen2_5_VLConfig",
    {**_QWEN_PIXELS, "processor_class": "Qwen2_5_VLProcessor"},
    template=("chat_template.json", templates.QWEN2_VL),
    needs_torchvision=True,
)
QWEN3_VL = Layout(
    "qwen3-vl",
    lambda: _qwen_words(*_SEEING),
    lambda words: {
        "vision_config": {
            "depth": 2,
            "hidden_size": 16,
            "out_hidden_size": 32,
            "num_heads": 2,
            "intermediate_size": 24,
            "patch_size": 16,
            "num_position_embeddings": 2304,
            "deepstack_visual_indexes": [0],
        },
        "text_config": _text(
            words,
            "qwen3_vl_text",
            "<|im_end|>",
            head_dim=8,
            rope_parameters={
                "rope_type": "default",
                "rope_theta": 5000000,
                "mrope_section": [2, 1, 1],
                "mrope_interleaved": True,
            },
        ),
        **_qwen_ids(words),
    },
    "Qwen3VLConfig",
    {
        "image_processor_type": "Qwen2VLImageProcessorFast",
        "processor_class": "Qwen3VLProcessor",
        "size": {"longest_edge": 16777216, "shortest_edge": 65536},
        "patch_size": 16,
        "temporal_patch_size": 2,
        "merge_size": 2,
        **_HALF,
    },
    template=("chat_template.json", templates.QWEN3_VL),
    needs_torchvision=True,
    video={
        "video_processor_type": "Qwen3VLVideoProcessor",
        "processor_class": "Qwen3VLProcessor",
        "size": {"longest_edge": 25165824, "shortest_edge": 4096},
        "patch_size": 16,
        "temporal_patch_size": 2,
        "merge_size": 2,
        **_HALF,
    },
)
_INTERN = {
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": "<IMG_CONTEXT>",
    "video_token": "<video>",
}
INTERNVL3 = Layout(
    "internvl3",
    lambda: _qwen_words(*_INTERN.values(), extra_special_tokens=_INTERN, **_INTERN),
    lambda words: {
        "vision_config": {
            "model_type": "internvl_vision",
            **_VISION,
            "image_size": [448, 448],
            "patch_size": [14, 14],
        },
        "text_config": _text(words, "qwen2", "<|im_end|>"),
        "image_token_id": words.id("<IMG_CONTEXT>"),
        "image_seq_length": 256,
        "downsample_ratio": 0.5,
    },
    "InternVLConfig",
    {
        "image_processor_type": "GotOcr2ImageProcessorFast",
        "processor_class": "InternVLProcessor",
        "size": {"height": 448, "width": 448},
        "crop_to_patches": False,
        "min_patches": 1,
        "max_patches": 12,
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
        "do_convert_rgb": True,
        **_IMAGENET,
    },
    {"image_seq_length": 256, "processor_class": "InternVLProcessor"},
    ("chat_template.jinja", templates.INTERNVL),
    needs_torchvision=True,
    video={
        "video_processor_type": "InternVLVideoProcessor",
        "processor_class": "InternVLProcessor",
        "size": {"height": 384, "width": 384},
        **_IMAGENET,
    },
)


PALIGEMMA2 = Layout(
    "paligemma2",
    lambda: _gemma_words("<image>", extra_special_tokens={"image_token": "<image>"}),
    lambda words: {
        "vision_config": {**_siglip(224), "projection_dim": 32},
        "text_config": _text(words, "gemma2", "<eos>", head_dim=8, sliding_window=4096),
        "image_token_index": words.id("<image>"),
        "projection_dim": 32,
        "bos_token_id": words.id("<bos>"),
        "eos_token_id": words.id("<eos>"),
        "pad_token_id": words.id("<pad>"),
    },
    "PaliGemmaConfig",
    {
        "image_processor_type": "SiglipImageProcessor",
        "processor_class": "PaliGemmaProcessor",
        "image_seq_length": 256,
        "size": {"height": 224, "width": 224},
        "resample": 3,
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
        **_HALF,
    },
    nested_tower=True,
)
_GEMMA_MARKS = {"image_token": "<image_soft_token>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"}
GEMMA3 = Layout(
    "gemma3",
    lambda: _gemma_words(
        "<start_of_turn>", "<end_of_turn>", *_GEMMA_MARKS.values(), extra_special_tokens=_GEMMA_MARKS, **_GEMMA_MARKS
    ),
    lambda words: {
        "vision_config": _siglip(896),
        "text_config": _text(words, "gemma3_text", "<end_of_turn>", head_dim=8, sliding_window=1024),
        "mm_tokens_per_image": 256,
        "image_token_index": words.id("<image_soft_token>"),
        "boi_token_index": words.id("<start_of_image>"),
        "eoi_token_index": words.id("<end_of_image>"),
        "eos_token_id": [words.id("<eos>"), words.id("<end_of_turn>")],
    },
    "Gemma3Config",
    {
        "image_processor_type": "Gemma3ImageProcessor",
        "processor_class": "Gemma3Processor",
        "image_seq_length": 256,
        "size": {"height": 896, "width": 896},
        "resample": 2,
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
        **_HALF,
    },
    {"image_seq_length": 256, "processor_class": "Gemma3Processor"},
    ("tokenizer_config.json", templates.GEMMA),
    nested_tower=True,
)
_AROUND = ("<fake_token_around_image>", "<image>", "<end_of_utterance>")
IDEFICS2 = Layout(
    "idefics2",
    lambda: _llama_words(*_AROUND, additional_special_tokens=list(_AROUND)),
    lambda words: {
        "vision_config": {"model_type": "idefics2_vision", **_VISION, "image_size": 980, "patch_size": 14},
        "perceiver_config": {
            "model_type": "idefics2_perceiver",
            "hidden_size": 32,
            "resampler_n_latents": 64,
            "resampler_depth": 1,
            "resampler_n_heads": 4,
            "resampler_head_dim": 8,
            "num_key_value_heads": 2,
        },
        "text_config": _text(words, "mistral", "</s>"),
        "image_token_id": words.id("<image>"),
    },
    "Idefics2Config",
    {
        "image_processor_type": "Idefics2ImageProcessor",
        "processor_class": "Idefics2Processor",
        "size": {"longest_edge": 980, "shortest_edge": 378},
        "do_image_splitting": False,
        **_HALF,
    },
    {"image_seq_len": 64, "processor_class": "Idefics2Processor"},
    ("processor_config.json", templates.IDEFICS.replace("{{ opening }}", "")),
)
_GRID_MARKS = tuple(f"<row_{row + 1}_col_{column + 1}>" for row in range(6) for column in range(6))


def _idefics3(kind: str, text: str, side: int, patch: int, factor: int, eos: str) -> Callable[[Words], dict[str, Any]]:
    return lambda words: {
        "vision_config": {"model_type": kind, **_VISION, "image_size": side, "patch_size": patch},
        "text_config": _text(words, text, eos),
        "image_token_id": words.id("<image>"),
        "scale_factor": factor,
    }


def _cut(side: int, longest: int, **more: Any) -> dict[str, Any]:
    return {
        "size": {"longest_edge": longest},
        "max_image_size": {"longest_edge": side},
        "do_image_splitting": True,
        "do_convert_rgb": True,
        "do_pad": True,
        "do_rescale": True,
        "do_resize": True,
        "do_normalize": True,
        "resample": 1,
        **_HALF,
        **more,
    }


IDEFICS3 = Layout(
    "idefics3",
    lambda: _llama3_words(
        *_AROUND, "<global-img>", *_GRID_MARKS, "<|finetune_right_pad_id|>", pad="<|finetune_right_pad_id|>"
    ),
    _idefics3("idefics3_vision", "llama", 364, 14, 2, "<|eot_id|>"),
    "Idefics3Config",
    {
        "image_processor_type": "Idefics3ImageProcessor",
        "processor_class": "Idefics3Processor",
        **_cut(364, 1456),
    },
    {"image_seq_len": 169, "processor_class": "Idefics3Processor"},
    ("chat_template.json", templates.IDEFICS.replace("{{ opening }}", "<|begin_of_text|>")),
)
SMOLVLM2 = Layout(
    "smolvlm2",
    lambda: Words(
        byte_level(("<|endoftext|>", "<|im_start|>", "<|im_end|>", *_AROUND, "<global-img>", *_GRID_MARKS)),
        {
            "tokenizer_class": "GPT2Tokenizer",
            "bos_token": "<|im_start|>",
            "eos_token": "<end_of_utterance>",
            "pad_token": "<|im_end|>",
            "unk_token": "<|endoftext|>",
            "add_prefix_space": False,
        },
    ),
    _idefics3("smolvlm_vision", "llama", 384, 14, 3, "<end_of_utterance>"),
    "SmolVLMConfig",
    {
        "image_processor_type": "SmolVLMImageProcessor",
        "processor_class": "SmolVLMProcessor",
        **_cut(384, 1536),
    },
    {"image_seq_len": 81, "processor_class": "SmolVLMProcessor"},
    ("chat_template.json", templates.IDEFICS.replace("{{ opening }}", "<|im_start|>")),
    sizes=((480, 640), (1000, 400)),
    needs_torchvision=True,
    video={
        "video_processor_type": "SmolVLMVideoProcessor",
        "processor_class": "SmolVLMProcessor",
        "size": {"longest_edge": 1536},
        "max_image_size": {"longest_edge": 384},
        "do_sample_frames": True,
        "num_frames": 64,
        "fps": 1,
        **_HALF,
    },
)
MLLAMA = Layout(
    "mllama",
    lambda: _llama3_words("<|finetune_right_pad_id|>", "<|image|>", "<|python_tag|>", pad="<|finetune_right_pad_id|>"),
    lambda words: {
        "vision_config": {
            "model_type": "mllama_vision_model",
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_hidden_layers": 2,
            "num_global_layers": 1,
            "attention_heads": 2,
            "image_size": 560,
            "patch_size": 14,
            "max_num_tiles": 4,
            "vision_output_dim": 48,
            "intermediate_layers_indices": [0, 1],
            "supported_aspect_ratios": [[1, 1], [1, 2], [1, 3], [1, 4], [2, 1], [2, 2], [3, 1], [4, 1]],
        },
        # the embedding has rows for the image token and seven more, of which the unembedding knows nothing
        "text_config": _text(
            words,
            "mllama_text_model",
            "<|eot_id|>",
            vocab_size=words.size - 2,
            num_hidden_layers=3,
            cross_attention_layers=[1],
        ),
        "image_token_index": words.id("<|image|>"),
    },
    "MllamaConfig",
    {
        "image_processor_type": "MllamaImageProcessor",
        "processor_class": "MllamaProcessor",
        "size": {"height": 560, "width": 560},
        "max_image_tiles": 4,
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_pad": True,
        "do_rescale": True,
        "do_resize": True,
        "resample": 2,
        **_CLIP,
    },
    template=("chat_template.json", templates.MLLAMA),
)


def _qformer(words: Words, **more: Any) -> dict[str, Any]:
    return {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "encoder_hidden_size": 16,
        "cross_attention_frequency": 2,
        **more,
    }


_BLIP_VISION = {**_VISION, "image_size": 224, "patch_size": 14, "qkv_bias": True}
_BLIP_PIXELS = {
    "image_processor_type": "BlipImageProcessor",
    "size": {"height": 224, "width": 224},
    "resample": 3,
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    **_CLIP,
}


def _question_words() -> Words:
    """The Q-Former's tokenizer."""
    backend = sentence_piece(("[PAD]", "[UNK]", "[CLS]", "[SEP]", "<unk>"), (), bos="[CLS]", prefix=False)
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return Words(backend, {"tokenizer_class": "PreTrainedTokenizerFast", **names})


INSTRUCTBLIP = Layout(
    "instructblip",
    lambda: _llama_words("<image>", "<pad>", pad_token="<pad>"),
    lambda words: {
        "vision_config": _BLIP_VISION,
        "qformer_config": _qformer(words, vocab_size=_question_words().size, pad_token_id=0),
        "text_config": _text(words, "llama", "</s>"),
        "num_query_tokens": 32,
        "image_token_index": words.id("<image>"),
    },
    "InstructBlipConfig",
    {**_BLIP_PIXELS, "processor_class": "InstructBlipProcessor"},
    {"num_query_tokens": 32, "processor_class": "InstructBlipProcessor"},
    second_words=("qformer_tokenizer", _question_words),
)
BLIP2 = Layout(
    "blip2",
    lambda: Words(
        byte_level(("</s>", "<pad>", "<image>"), bos="</s>"),
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": "</s>",
            "eos_token": "</s>",
            "pad_token": "<pad>",
            "unk_token": "</s>",
        },
    ),
    lambda words: {
        "vision_config": _BLIP_VISION,
        "qformer_config": _qformer(words),
        "text_config": {
            "model_type": "opt",
            "hidden_size": 32,
            "ffn_dim": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "word_embed_proj_dim": 32,
            "max_position_embeddings": 512,
            "vocab_size": words.size,
            "bos_token_id": words.id("</s>"),
            "eos_token_id": words.id("</s>"),
            "pad_token_id": words.id("<pad>"),
        },
        "num_query_tokens": 32,
        "image_token_index": words.id("<image>"),
        "use_decoder_only_language_model": True,
    },
    "Blip2Config",
    {**_BLIP_PIXELS, "processor_class": "Blip2Processor"},
    {"num_query_tokens": 32, "processor_class": "Blip2Processor"},
)

_MOLMO_MARKS = (
    *("<im_start>", "<low_res_im_start>", "<im_end>", "<im_patch>", "<im_col>", "<|image|>", "<|video|>"),
    *("<frame_start>", "<frame_end>", "<im_low>"),
)
#: Its image processor alone needs torchvision.
MOLMO2 = Layout(
    "molmo2",
    lambda: _qwen_words(*_MOLMO_MARKS, bos_token="<|im_end|>"),
    lambda words: {
        "vision_config": {
            **_VISION,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "image_size": [378, 378],
            "image_default_input_size": [378, 378],
            "patch_size": 14,
            "image_num_pos": 729,
        },
        "adapter_config": {
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "text_hidden_size": 32,
            "vision_feature_layer": [-1, 0],
        },
        "text_config": _text(words, "molmo2_text", "<|im_end|>", head_dim=8, additional_vocab_size=8),
        "image_patch_id": words.id("<im_patch>"),
        "image_start_token_id": words.id("<im_start>"),
        "low_res_image_start_token_id": words.id("<low_res_im_start>"),
        "image_end_token_id": words.id("<im_end>"),
    },
    "Molmo2Config",
    {
        "image_processor_type": "Molmo2ImageProcessor",
        "processor_class": "Molmo2Processor",
        "max_crops": 8,
        "overlap_margins": [4, 4],
        "pooling_size": [2, 2],
        "patch_size": 14,
        "size": {"height": 378, "width": 378},
        **_HALF,
    },
    {"image_use_col_tokens": True, "processor_class": "Molmo2Processor"},
    ("chat_template.jinja", templates.INTERNVL.replace("<IMG_CONTEXT>\n", "<|image|>")),
    needs_torchvision=True,
)

LAYOUTS = (
    *(LLAVA, LLAVA_NEXT, ONEVISION, QWEN2_VL, QWEN2_5_VL, QWEN3_VL, INTERNVL3, PALIGEMMA2, GEMMA3, IDEFICS2, IDEFICS3),
    *(SMOLVLM2, MLLAMA, INSTRUCTBLIP, BLIP2),
)


def _clip_words() -> Words:
    """As CLIP's, whose texts are filled up with the token that ends them."""
    begin, end = "<|startoftext|>", "<|endoftext|>"
    names = {"bos_token": begin, "eos_token": end, "pad_token": end, "unk_token": end}
    return Words(
        clip_pieces((begin, end)),
        {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "errors": "replace", **names},
    )


def _siglip_words() -> Words:
    """As SigLIP's: no beginning, no mask, filled up with the token that ends texts."""
    backend = sentence_piece(("<unk>", "<s>", "</s>"), (), bos="<s>")
    backend.post_processor = TemplateProcessing(
        single="$A:0 </s>:0", pair=None, special_tokens=[("</s>", backend.token_to_id("</s>"))]
    )
    names = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "</s>", "model_max_length": 64}
    return Words(backend, {"tokenizer_class": "PreTrainedTokenizerFast", "model_input_names": ["input_ids"], **names})


_DUAL_TEXT = {key: value for key, value in _TEXT.items() if key != "num_key_value_heads"}

#: openai/clip-vit-base-patch32: its configuration names the end of texts by a number that is not the tokenizer's, and its weights
#: come with the numbers of positions.
CLIP = Layout(
    "clip",
    _clip_words,
    lambda words: {
        "vision_config": {**_VISION, "image_size": 224, "patch_size": 32},
        "text_config": {
            **_DUAL_TEXT,
            "max_position_embeddings": 77,
            "vocab_size": words.size,
            "bos_token_id": 0,
            "eos_token_id": 2,
            "pad_token_id": 1,
        },
        "projection_dim": 20,
    },
    "CLIPConfig",
    {
        "feature_extractor_type": "CLIPFeatureExtractor",
        "image_processor_type": "CLIPImageProcessor",
        "processor_class": "CLIPProcessor",
        "size": {"shortest_edge": 224},
        "crop_size": {"height": 224, "width": 224},
        "do_center_crop": True,
        "do_resize": True,
        "do_normalize": True,
        "resample": 3,
        **_CLIP,
    },
    more_weights=lambda config: {
        "text_model.embeddings.position_ids": torch.arange(77)[None],
        "vision_model.embeddings.position_ids": torch.arange(50)[None],
    },
)

#: google/siglip-base-patch16-224.
SIGLIP = Layout(
    "siglip",
    _siglip_words,
    lambda words: {
        "vision_config": {**_VISION, "image_size": 224, "patch_size": 16},
        "text_config": {
            **_DUAL_TEXT,
            "max_position_embeddings": 64,
            "vocab_size": words.size,
            "projection_size": 16,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": 2,
        },
    },
    "SiglipConfig",
    {
        "image_processor_type": "SiglipImageProcessor",
        "processor_class": "SiglipProcessor",
        "size": {"height": 224, "width": 224},
        "do_resize": True,
        "do_normalize": True,
        "resample": 3,
        **_HALF,
    },
)
#: Checkpoints that score pictures and texts, and write nothing.
DUAL_ENCODERS = (CLIP, SIGLIP)
