"""Keywords that Hugging Face would swallow in silence are refused, with what says the same here."""

from typing import Any

import pytest
import torch

from mmlens.core.errors import InputError
from mmlens.models.hooked import HookedMultimodal
from tests.conftest import Subject
from tests.models.test_conditions import with_adapter

LOST = "and would leave it out without a word."


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            {"names_filter": "blocks.0.hook_resid_pre"},
            f"The forward pass of LlavaForConditionalGeneration knows no names_filter= {LOST} names_filter: "
            "run_with_cache(batch, names=...) chooses points: names, globs or a predicate.",
        ),
        (
            {"bwd_hooks": [], "return_type": "loss"},
            "The forward pass of LlavaForConditionalGeneration knows no bwd_hooks=, return_type= and would leave them out "
            "without a word. bwd_hooks: `with model.hooks(bwd_hooks=...)` around the pass and backward(). return_type: a run "
            "returns logits, and mm.metrics makes numbers of them.",
        ),
        (
            {"use_cach": True},
            f"The forward pass of LlavaForConditionalGeneration knows no use_cach= {LOST} Nearest: use_cache.",
        ),
        (
            {"images": "photo.png"},
            f"The forward pass of LlavaForConditionalGeneration knows no images= {LOST} images: model.prepare(text, "
            "images=...) makes a batch of them, and a run takes the batch.",
        ),
    ],
)
def test_in_every_run_method(llava: Subject, options: dict[str, Any], text: str) -> None:
    model, batch = llava.model, llava.batches["left"]
    others = () if "images=" in text else (model.batch,)  # which takes pictures
    for run in (model, model.run_with_hooks, model.run_with_cache, model.trace_generation, *others):
        with pytest.raises(InputError) as caught:
            run(batch, **options)
        assert str(caught.value) == text


def test_what_the_model_knows_passes(subject: Subject) -> None:
    """Its own options, those that all models of transformers share, and tensors, which are the model's business."""
    batch = subject.batches["left"]
    extra = {"output_attentions": False, "output_hidden_states": False, "a_tensor_of_mine": torch.zeros(1)}
    assert torch.equal(subject.model(batch, use_cache=True, **extra), subject.model(batch))


def test_under_an_adapter(llava: Subject) -> None:
    model = HookedMultimodal.from_hf(with_adapter(llava), llava.model.processor)
    with pytest.raises(InputError, match=r"^The forward pass of LlavaForConditionalGeneration knows no names_filter= "):
        model.run_with_cache(llava.batches["left"], names_filter="hook_embed")


@pytest.mark.parametrize("answer", [False, True])
@torch.no_grad()
def test_logits_are_read_off_whatever_form_was_asked_for(subject: Subject, answer: bool) -> None:
    model, batch = subject.model, subject.batches["left"]
    assert torch.equal(model(batch, return_dict=answer), model(batch))
    logits, cache = model.run_with_cache(batch, names="blocks.0.hook_resid_post", return_dict=answer)
    assert torch.equal(logits, model(batch))
    assert "blocks.0.hook_resid_post" in cache
