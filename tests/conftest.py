"""Shared fixtures: tiny models built once, and batches of every kind that a contract must hold on."""

import copy
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from mmlens.inputs.batch import MultimodalBatch
from mmlens.models.hooked import HookedMultimodal
from mmlens.models.rounding import ROUNDING_FACTOR, rounding
from tests.tiny import TINY, Tiny, picture

SHORT, LONG = "describe the image", "what color is the big red circle"


@dataclass(frozen=True)
class Subject:
    """A tiny family to test on. Read-only: a test that changes a model makes its own with `tiny.make()`.

    Attributes:
        tiny: how it was made.
        model: the hooked model.
        bare: the same weights in a Hugging Face model that was never wrapped.
        batches: by kind: `left` and `right` (two prompts of different length), `several` (two pictures and one; only
            where the family takes them).
    """

    tiny: Tiny
    model: HookedMultimodal
    bare: Any
    batches: dict[str, MultimodalBatch]

    @property
    def name(self) -> str:
        """Short name of the family."""
        return self.tiny.name


def bare_copy(model: HookedMultimodal, attn_implementation: str | None = None) -> Any:
    """A Hugging Face model with the same weights, built anew and never wrapped; with torch's fused attention if it can.

    Where samples are padded on the left, it is told their positions as transformers' generation counts them.
    """
    own = model.hf_model
    config = type(own.config).from_dict(copy.deepcopy(own.config.to_dict()))
    chosen = {} if attn_implementation is None else {"attn_implementation": attn_implementation}
    bare = type(own)._from_config(config, **chosen)
    bare.load_state_dict(own.state_dict())
    if hasattr(own, "generation_config"):  # dual encoders generate nothing
        bare.generation_config = copy.deepcopy(own.generation_config)
    return told_positions(bare.eval())


def told_positions(bare: Any) -> Any:
    """A bare Hugging Face model that numbers the positions of every sample by itself, wherever it is told them at all."""
    for module in (bare, getattr(bare, "language_model", None)):
        if module is not None:
            module.register_forward_pre_hook(_positions_of_samples, with_kwargs=True)
    return bare


def _positions_of_samples(module: Any, args: tuple[Any, ...], tensors: dict[str, Any]) -> Any:
    """Number positions sample by sample, where a Hugging Face model is told them and was not."""
    mask, ids = tensors.get("attention_mask"), tensors.get("input_ids")
    if (
        "position_ids" not in inspect.signature(type(module).forward).parameters
        or tensors.get("position_ids") is not None
    ):
        return None
    rows = tensors.get("inputs_embeds") if ids is None else ids
    if mask is None or mask.ndim != 2 or rows is None:
        return None
    name = type(module).__name__
    if name.startswith("HunYuanVL"):  # numbers the pictures of a batch, not of a sample
        kinds, grids = tensors["mm_token_type_ids"], tensors["image_grid_thw"]
        one_each = zip(ids.split(1), kinds.split(1), grids.split(1), mask.split(1), strict=True)
        positions = torch.cat([module.model.get_rope_index(*sample)[0] for sample in one_each], dim=1)
    elif name.startswith("Kosmos") or bool(mask[:, 0].all()) or hasattr(module.base_model, "get_rope_index"):
        return None
    else:
        positions = (mask.cumsum(1) - 1).masked_fill(mask == 0, 0) + (name.startswith("PaliGemma"))
        positions = positions[:, -rows.shape[1] :]
    return args, {**tensors, "position_ids": positions}


def rounded(model: HookedMultimodal, batch: MultimodalBatch) -> float:
    """How far two ways of computing the same may lie apart in a logit: a bound from the model at hand, not a number."""
    return ROUNDING_FACTOR * rounding(model, batch)


def answer_of(bare: Any, batch: Any) -> torch.Tensor:
    """What a bare Hugging Face model answers: logits, or the scores of a dual encoder."""
    if not bare.can_generate():
        return bare(**batch).logits_per_image
    return bare(**batch, use_cache=False).logits


def batches_of(model: HookedMultimodal, name: str) -> dict[str, MultimodalBatch]:
    """Batches of two samples; pictures differ in size where the family keeps sizes."""
    first, second = picture(0), picture(1, 48, 80) if name == "qwen2_vl" else picture(1)
    found = {
        side: model.prepare([SHORT, LONG], images=[[first], [second]], padding_side=side)  # type: ignore[arg-type]
        for side in ("left", "right")
    }
    if name != "instructblip":
        found["several"] = model.prepare([SHORT, LONG], images=[[first, second], [picture(2)]])
    return found


_MADE: dict[str, Subject] = {}


def subject_of(tiny: Tiny) -> Subject:
    """The subject of a family, made once."""
    if tiny.name not in _MADE:
        model = tiny.make()
        _MADE[tiny.name] = Subject(tiny, model, bare_copy(model), batches_of(model, tiny.name))
    return _MADE[tiny.name]


@pytest.fixture(params=TINY, ids=lambda tiny: tiny.name)
def subject(request: pytest.FixtureRequest) -> Iterator[Subject]:
    """Each family in turn; fails the test that leaves a hook or a switched kernel behind."""
    made = subject_of(request.param)
    yield made
    assert not any(point.attached for point in made.model.hook_dict.values()), "the test left hooks on a shared model"


@pytest.fixture
def llava() -> Subject:
    """LLaVA with a CLIP tower."""
    return subject_of(TINY[0])


@pytest.fixture
def qwen() -> Subject:
    """Qwen2-VL."""
    return subject_of(TINY[2])


@pytest.fixture
def blip() -> Subject:
    """InstructBLIP."""
    return subject_of(TINY[3])


#: Captions and answers as people write them: capitals, punctuation, accents, words of several tokens.
CAPTIONS = (
    "A man holding a dog.",
    "Yes.",
    "The Moon\u2019s light, on the grass!",
    "Two black-and-white cats; one caf\u00e9 (closed).",
)


@pytest.fixture(scope="session")
def subword(tmp_path_factory: pytest.TempPathFactory) -> HookedMultimodal:
    """LLaVA with a tokenizer of sub-words, opened from a folder as the hub has it. Read-only."""
    from tests.checkpoints.layouts import LLAVA

    return HookedMultimodal.from_pretrained(LLAVA.write(tmp_path_factory.mktemp("subword") / "llava"))
