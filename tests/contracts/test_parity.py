"""Contract: without hooks the model is bit-equal to bare Hugging Face; with all of them, equal up to rounding."""

from typing import Any

import pytest
import torch

from mmlens.models.hooked import HookedMultimodal
from tests.conftest import LONG, SHORT, Subject, bare_copy, batches_of, rounded
from tests.tiny import TINY

KINDS = ("left", "right", "several")


def watch(activation: torch.Tensor, hook: Any) -> None:
    """A hook that only looks."""


def kernels(model: HookedMultimodal) -> list[str | None]:
    """The attention kernel that each module's configuration names."""
    return [module.config._attn_implementation for module in model.hf_model.modules() if hasattr(module, "config")]


@torch.no_grad()
def bare_logits(bare: Any, batch: Any) -> torch.Tensor:
    return bare(**batch, use_cache=False).logits


def of_kind(subject: Subject, kind: str) -> Any:
    if kind not in subject.batches:
        pytest.skip(f"{subject.name} takes one picture per sample")
    return subject.batches[kind]


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_without_hooks_the_logits_are_those_of_bare_hugging_face(subject: Subject, kind: str) -> None:
    batch = of_kind(subject, kind)
    assert torch.equal(subject.model(batch), bare_logits(subject.bare, batch))


@pytest.mark.parametrize("kind", ["left", "several"])
@pytest.mark.parametrize("use_cache", [True, False])
@torch.no_grad()
def test_without_hooks_generation_is_that_of_bare_hugging_face(subject: Subject, kind: str, use_cache: bool) -> None:
    batch = of_kind(subject, kind)
    options = {"max_new_tokens": 5, "use_cache": use_cache, "return_dict_in_generate": True, "output_logits": True}
    ours = subject.model.generate(batch, **options)
    theirs = subject.bare.generate(**batch, do_sample=False, **options)
    assert torch.equal(ours.sequences, theirs.sequences)
    assert all(torch.equal(a, b) for a, b in zip(ours.logits, theirs.logits, strict=True))


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_with_every_point_hooked_the_logits_differ_by_rounding_and_afterwards_not_at_all(
    subject: Subject, kind: str
) -> None:
    batch = of_kind(subject, kind)
    model, expected = subject.model, bare_logits(subject.bare, batch)
    before = kernels(model)
    with model.hooks([("*", watch)]):
        hooked = model(batch)
    real = batch.layout.is_token
    torch.testing.assert_close(hooked[real], expected[real], atol=rounded(model, batch), rtol=0)
    assert kernels(model) == before
    assert torch.equal(model(batch), expected)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_points_that_need_no_step_by_step_attention_leave_the_logits_bit_equal(subject: Subject, kind: str) -> None:
    batch = of_kind(subject, kind)
    hooked = subject.model.run_with_hooks(batch, fwd_hooks=[(subject.model.default_points.names, watch)])
    assert torch.equal(hooked, bare_logits(subject.bare, batch))


@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_a_sample_does_not_depend_on_the_padding_around_it(subject: Subject, side: Any) -> None:
    model, batch = subject.model, subject.batches[side]
    logits = model(batch)
    for sample, text in enumerate([SHORT, LONG]):
        alone = model(model.prepare(text, images=list(batch.images[sample])))[0]
        own = logits[sample][batch.layout.is_token[sample]]
        torch.testing.assert_close(own, alone, atol=1e-4, rtol=1e-4)
        assert torch.equal(
            batch["input_ids"][sample][batch.layout.is_token[sample]],
            model.prepare(text, images=list(batch.images[sample]))["input_ids"][0],
        )


@torch.no_grad()
def test_hooked_generation_chooses_the_same_tokens(subject: Subject) -> None:
    batch = subject.batches["left"]
    expected = subject.bare.generate(**batch, do_sample=False, max_new_tokens=5)
    with subject.model.hooks([("*", watch)]):
        assert torch.equal(subject.model.generate(batch, max_new_tokens=5), expected)


@pytest.mark.parametrize("tiny", TINY, ids=lambda tiny: tiny.name)
@torch.no_grad()
def test_models_configured_for_eager_attention_keep_it(tiny: Any) -> None:
    own = tiny.make()
    eager = bare_copy(own, "eager")
    model = HookedMultimodal.from_hf(bare_copy(own, "eager"), own.processor)
    for kind, batch in batches_of(own, tiny.name).items():
        expected = bare_logits(eager, batch)
        assert torch.equal(model(batch), expected), kind
        real = batch.layout.is_token
        passed = model.run_with_hooks(batch, fwd_hooks=[(model.default_points.names, watch)])
        allowed = rounded(model, batch)
        torch.testing.assert_close(passed[real], expected[real], atol=allowed, rtol=0)
        hooked = model.run_with_hooks(batch, fwd_hooks=[("*", watch)])
        torch.testing.assert_close(hooked[real], expected[real], atol=allowed, rtol=0)
        assert set(kernels(model)) <= {"eager", None}
        assert torch.equal(model(batch), expected), kind


@pytest.mark.parametrize("tiny", TINY, ids=lambda tiny: tiny.name)
@torch.no_grad()
def test_bfloat16(tiny: Any) -> None:
    own = tiny.make()
    bare = bare_copy(own).to(torch.bfloat16)
    model = HookedMultimodal.from_hf(bare_copy(own).to(torch.bfloat16), own.processor)
    batch = model.prepare("describe the image", images=torch.full((32, 32, 3), 200, dtype=torch.uint8))
    inputs = {name: t.to(torch.bfloat16) if t.is_floating_point() else t for name, t in batch.items()}
    expected = bare_logits(bare, inputs)
    assert torch.equal(model(inputs), expected)
    assert torch.equal(model(batch), expected)
    logits, cache = model.run_with_cache(batch, names="*")
    assert {t.dtype for name, t in cache.items() if not name.endswith("hook_scale")} == {torch.bfloat16}
    bound = 40 * torch.finfo(torch.bfloat16).eps
    torch.testing.assert_close(logits.float(), expected.float(), atol=bound, rtol=bound)
