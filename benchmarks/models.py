"""What the benchmarks run on: a random LLaVA with a full-size sequence, and the lab model where it is trained."""

import copy
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from transformers import LlavaConfig, LlavaForConditionalGeneration

import mmlens as mm

#: Sequence of LLaVA 1.0 at 224 pixels: 16 x 16 patches, and a short question around them.
IMAGE_TOKENS, TEXT_TOKENS = 256, 24
_IMAGE_TOKEN = 7999
_PIXELS, _PATCH = 224, 14


@dataclass(frozen=True)
class Subject:
    """A Hugging Face model, its input, and its wrapped self.

    Attributes:
        name: for the table.
        bare: the Hugging Face model; mmlens wraps this very object, the peers get copies.
        inputs: keyword tensors for it.
    """

    name: str
    bare: Any
    inputs: dict[str, torch.Tensor]

    @cached_property
    def hooked(self) -> mm.HookedMultimodal:
        """mmlens around `bare` itself: the same weights in the same memory."""
        return mm.HookedMultimodal.from_hf(self.bare)

    @cached_property
    def batch(self) -> mm.MultimodalBatch:
        """`inputs` as mmlens's batch."""
        return self.hooked.batch(self.inputs)

    def copy(self) -> Any:
        """A Hugging Face model of its own, for a peer that changes what it wraps."""
        return copy.deepcopy(self.bare)


def random_llava(device: str = "cpu", *, seed: int = 0) -> Subject:
    """A random LLaVA of 48 million parameters (CLIP tower and Llama of 8 layers each), float32.

    Args:
        device: where it runs.
        seed: of weights and inputs.
    """
    vision = {"hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 8, "num_attention_heads": 6}
    text = {"hidden_size": 512, "intermediate_size": 1376, "num_hidden_layers": 8, "num_attention_heads": 8}
    config = LlavaConfig(
        vision_config={"model_type": "clip_vision_model", "image_size": _PIXELS, "patch_size": _PATCH, **vision},
        text_config={"model_type": "llama", "vocab_size": _IMAGE_TOKEN + 1, "max_position_embeddings": 512, **text},
        image_token_index=_IMAGE_TOKEN,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlavaForConditionalGeneration(config).eval().to(device)
        tokens = torch.randint(3, _IMAGE_TOKEN, (1, IMAGE_TOKENS + TEXT_TOKENS))
        pixels = torch.randn(1, 3, _PIXELS, _PIXELS)
    tokens[0, 4 : 4 + IMAGE_TOKENS] = _IMAGE_TOKEN
    inputs = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "pixel_values": pixels}
    return Subject("LLaVA 48M", model, {name: tensor.to(device) for name, tensor in inputs.items()})


def llava_1_5(
    layers: int, *, width: int = 4096, dtype: torch.dtype = torch.float32, vocabulary: int = 32064, seed: int = 0
) -> Subject:
    """A random LLaVA-1.5 with its real sequence: 5 tokens of text, 576 of a picture, 24 of text.

    Args:
        layers: of the language model, which has 32; the vision encoder has six times as many, up to its 24.
        width: of the language model's stream, which is 4,096 wide; all other widths are in proportion, heads 128 wide.
        dtype: of the weights.
        vocabulary: number of tokens.
        seed: of weights and inputs.
    """
    image_token, blocks = vocabulary - 64, min(24, 6 * layers)
    towers = {"hidden_size": width // 4, "intermediate_size": width, "num_attention_heads": width // 256}
    text = {"hidden_size": width, "intermediate_size": width * 43 // 16, "num_attention_heads": width // 128}
    config = LlavaConfig(
        vision_config={
            "model_type": "clip_vision_model",
            "image_size": 336,
            "patch_size": 14,
            "num_hidden_layers": blocks,
            **towers,
        },
        text_config={
            "model_type": "llama",
            "vocab_size": vocabulary,
            "num_hidden_layers": layers,
            **text,
            "max_position_embeddings": 4096,
        },
        image_token_index=image_token,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        dtype=dtype,
    )
    before = torch.get_default_dtype()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        torch.set_default_dtype(dtype)
        try:
            model = LlavaForConditionalGeneration(config).eval()
        finally:
            torch.set_default_dtype(before)
        tokens = torch.randint(3, image_token, (1, 5 + 576 + 24))
        pixels = torch.randn(1, 3, 336, 336, dtype=dtype)
    tokens[0, 5 : 5 + 576] = image_token
    inputs = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "pixel_values": pixels}
    return Subject(f"LLaVA-1.5, width {width:,}, {layers} of 32 layers", model, inputs)


def lab_model() -> Subject | None:
    """The lab model and a drawn picture; None where it is not trained yet."""
    if not (mm.lab.path() / "config.json").is_file():
        return None
    model = mm.lab.load()
    batch = model.prepare(mm.lab.CAPTION_PROMPT, images=mm.lab.scene(seed=7).image)
    return Subject("lab model", model.hf_model, dict(batch))
