"""Models opened from real layouts: shards under the hub's names; logits and tokens are bare Hugging Face's, bit by bit."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageTextToText

from mmlens.models.hooked import HookedMultimodal
from tests.checkpoints.cases import QUESTION, SHORT, picture
from tests.checkpoints.layouts import MLLAMA, Layout
from tests.conftest import told_positions

#: How the hub's names begin, where transformers' own names have moved since.
HUB_NAMES = {
    "llava-1.5": ("language_model.model.", "vision_tower.vision_model.", "multi_modal_projector."),
    "llava-next": ("language_model.model.", "image_newline", "vision_tower.vision_model."),
    "onevision": ("language_model.model.", "vision_tower.vision_model."),
    "qwen2-vl": ("visual.blocks.", "model.layers."),
    "qwen2.5-vl": ("visual.blocks.", "model.layers."),
    "paligemma2": ("language_model.model.", "vision_tower.vision_model."),
    "gemma3": ("language_model.model.", "vision_tower.vision_model."),
    "mllama": ("language_model.model.", "vision_model."),
}


def test_weights_lie_in_shards_under_the_hubs_names(layout: Layout, folder_of: Callable[[Layout], Path]) -> None:
    folder = folder_of(layout)
    names = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    assert len(set(names.values())) > 1
    for beginning in HUB_NAMES.get(layout.name, ()):
        assert any(name.startswith(beginning) for name in names), beginning


@torch.no_grad()
def test_logits_and_greedy_tokens_are_those_of_bare_hugging_face(
    layout: Layout, folder_of: Callable[[Layout], Path], model: HookedMultimodal
) -> None:
    bare = told_positions(AutoModelForImageTextToText.from_pretrained(folder_of(layout)).eval())
    shown = [picture(0, 224, 224), picture(1, 224, 224)]
    samples = 1 if layout is MLLAMA else 2  # which pads every picture to four tiles of 1,608 rows
    batch = model.prepare([QUESTION, SHORT][:samples], images=shown[:samples])
    assert torch.equal(model(batch), bare(**batch, use_cache=False).logits)
    options = {"max_new_tokens": 3, "do_sample": False}
    assert torch.equal(model.generate(batch, **options), bare.generate(**batch, **options))


@pytest.fixture
def texts() -> list[str]:
    """Answers as people write them."""
    return ["A man holding a dog.", "Yes.", "yes", "Red", "The moon"]


def test_words_of_several_tokens_are_the_rule(model: HookedMultimodal, texts: list[str]) -> None:
    """What hides behind one-token words in a lab: here most words are several tokens, and all come back as written."""
    lengths = [model.processor.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    assert all(len(ids) > 1 for ids in lengths)
    for text, ids in zip(texts, lengths, strict=True):
        assert model.processor.tokenizer.decode(ids).strip() == text
