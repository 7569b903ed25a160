"""Three tiny models, each bound to a batch and in TransformerLens's bridge around a copy of its weights."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any
from unittest.mock import patch

import torch
from tokenizers.processors import TemplateProcessing
from transformer_lens.model_bridge.architecture_adapter import ArchitectureAdapter
from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module

from mmlens.inputs.batch import MultimodalBatch
from mmlens.models.hooked import HookedMultimodal
from tests.conftest import bare_copy
from tests.families.gemma_like import gemma3
from tests.families.qwen_like import qwen2_5_vl
from tests.tiny import llava, picture

TEXT, OTHER_TEXT, LONG_TEXT = "the red circle", "the blue circle", "what color is the big red circle"


@dataclass(frozen=True)
class Pair:
    """One model on both sides.

    Attributes:
        name: of the model.
        hooked: the model that hooks were put into.
        bridge: TransformerLens's bridge around a copy of its weights; every run of it gets the picture.
        bare: another copy, in the Hugging Face class, never wrapped.
        batches: by text: the picture and the text.
    """

    name: str
    hooked: HookedMultimodal
    bridge: Any
    bare: Any
    batches: dict[str, MultimodalBatch]


def _llava() -> HookedMultimodal:
    """LLaVA with as many key heads as heads: TransformerLens's attribution of edges asks for that."""
    return llava(text={"num_key_value_heads": 4}, side=16)


MODELS: dict[str, Callable[[], HookedMultimodal]] = {"llava": _llava, "qwen2_5_vl": qwen2_5_vl, "gemma3": gemma3}


@cache
def pair(name: str) -> Pair:
    """A model on both sides, made once."""
    hooked = MODELS[name]()
    tokenizer = hooked.tokenizer
    if name == "qwen2_5_vl":  # Qwen's tokenizer knows no beginning of a text
        tokenizer.bos_token = None
    else:  # Llama's and Gemma's put one in front
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single="<bos> $A", pair="<bos> $A <bos> $B", special_tokens=[("<bos>", tokenizer.bos_token_id)]
        )
        tokenizer.init_kwargs.update(name_or_path=name, add_bos_token=True)
    batches = {text: hooked.prepare(text, images=picture(0)) for text in (TEXT, OTHER_TEXT, LONG_TEXT)}
    wrapped = bare_copy(hooked)
    # the adapter of Qwen2.5-VL asks for torchvision, which none of its code runs here
    with patch.object(ArchitectureAdapter, "_check_required_libraries", lambda adapter: None):
        bridge = build_bridge_from_module(
            wrapped,
            type(wrapped).__name__,
            hf_config=wrapped.config,
            tokenizer=copy.deepcopy(tokenizer),
            model_name=name,
        )
    bridge.forward = _with_picture(bridge.forward, batches[TEXT])
    return Pair(name, hooked, bridge, bare_copy(hooked), batches)


def _with_picture(forward: Callable[..., Any], batch: MultimodalBatch) -> Callable[..., Any]:
    """The bridge's forward with the picture of a batch in every run of tokens that have a place for it."""

    def through(input: Any, *args: Any, **options: Any) -> Any:
        if not isinstance(input, torch.Tensor) or input.is_floating_point():
            return forward(input, *args, **options)
        ids = input if input.ndim == 2 else input[None]
        more = {name: value for name, value in batch.inputs.items() if name not in ("input_ids", "attention_mask")}
        for name in ("token_type_ids", "mm_token_type_ids"):
            if name in more:
                more[name] = (ids == _placeholder(batch)).long()
        if len(ids) > 1:
            more = {
                name: torch.cat([value] * len(ids)) if "type_ids" not in name else value for name, value in more.items()
            }
        return forward(input, *args, **{**more, **options})

    return through


def _placeholder(batch: MultimodalBatch) -> int:
    """The id of the tokens that a picture takes the place of."""
    return int(batch["input_ids"][batch.layout.is_image][0])
