"""Contract: a trace holds, for each new token, the states of a plain forward at the position that predicts it."""

from typing import Any

import pytest
import torch

from mmlens.architectures.loading import find_family
from mmlens.core.errors import InputError
from mmlens.models.hooked import HookedMultimodal
from tests.conftest import LONG, SHORT, Subject, bare_copy
from tests.tiny import TINY, picture

NAMES = [
    "hook_embed",
    "blocks.*.hook_resid_post",
    "blocks.*.mlp.hook_post",
    "blocks.1.attn.hook_z",
    "blocks.2.attn.hook_q",
]
STEPS = 4


def extended(model: HookedMultimodal, batch: Any, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
    """Keyword tensors of prompt plus new tokens, made by hand."""
    inputs = dict(batch.items())
    inputs["input_ids"] = torch.cat([batch["input_ids"], tokens], dim=1)
    inputs["attention_mask"] = torch.cat([batch["attention_mask"], torch.ones_like(tokens)], dim=1)
    if "mm_token_type_ids" in inputs:
        inputs["mm_token_type_ids"] = (inputs["input_ids"] == model.config.image_token_id).int()
    return inputs


@torch.no_grad()
def expected_states(
    model: HookedMultimodal, batch: Any, tokens: torch.Tensor
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """States and logits at the positions that predict each of the new tokens, by one plain forward."""
    logits, cache = model.run_with_cache(extended(model, batch, tokens), names=NAMES)
    prompt, steps = batch["input_ids"].shape[1], tokens.shape[1]
    window = slice(prompt - 1, prompt - 1 + steps)
    return {name: tensor[:, window] for name, tensor in cache.items()}, logits[:, window]


@pytest.mark.parametrize("use_cache", [True, False], ids=["kv cache", "no kv cache"])
@pytest.mark.parametrize("kind", ["left", "several"])
def test_states_are_those_of_a_plain_forward_over_prompt_and_new_tokens(
    subject: Subject, kind: str, use_cache: bool
) -> None:
    if kind not in subject.batches:
        pytest.skip(f"{subject.name} takes one picture per sample")
    model, batch = subject.model, subject.batches[kind]
    trace = model.trace_generation(batch, names=NAMES, max_new_tokens=STEPS, use_cache=use_cache)
    theirs = subject.bare.generate(**batch, do_sample=False, max_new_tokens=STEPS)
    assert torch.equal(trace.tokens, theirs[:, -trace.tokens.shape[1] :])
    states, logits = expected_states(model, batch, trace.tokens)
    assert set(trace.states) == set(states)
    for sample, length in enumerate(trace.lengths.tolist()):
        for name, expected in states.items():
            torch.testing.assert_close(
                trace[name][sample, :length], expected[sample, :length], atol=1e-5, rtol=1e-5, msg=name
            )
        torch.testing.assert_close(trace.logits[sample, :length], logits[sample, :length], atol=1e-5, rtol=1e-5)
        assert torch.equal(trace.logits[sample, :length].argmax(-1), trace.tokens[sample, :length])


@pytest.mark.parametrize("tiny", TINY, ids=lambda tiny: tiny.name)
def test_a_sample_that_ends_early_is_cut_at_its_end_token(tiny: Any) -> None:
    model = tiny.make()
    pictures = [[picture(0)], [picture(1)]]
    batch = model.prepare([SHORT, LONG], images=pictures)
    inner = getattr(model.hf_model, "language_model", None)
    configs = [
        c for c in (model.hf_model.generation_config, getattr(inner, "generation_config", None)) if c is not None
    ]
    for config in configs:
        config.eos_token_id, config.pad_token_id = None, 0
    free = model.trace_generation(batch, names=NAMES, max_new_tokens=STEPS)
    ends = next(
        (sample, step)
        for sample in range(2)
        for step in range(STEPS - 1)
        if free.tokens[sample, step] not in free.tokens[1 - sample]
        and free.tokens[sample, step] not in free.tokens[sample, :step]
    )
    sample, step = ends
    for config in configs:
        config.eos_token_id = int(free.tokens[sample, step])
    trace = model.trace_generation(batch, names=NAMES, max_new_tokens=STEPS)
    assert trace.lengths[sample] == step + 1
    assert trace.lengths[1 - sample] == STEPS
    assert len(trace.words[sample]) == step + 1
    assert not trace.tokens[sample, step + 1 :].any()  # padded
    states, _ = expected_states(model, batch, free.tokens)
    for name, found in trace.states.items():
        expected = states[name]
        for row, length in enumerate(trace.lengths.tolist()):
            torch.testing.assert_close(found[row, :length], expected[row, :length], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_patterns_grow_with_the_keys(llava: Subject) -> None:
    model, batch = llava.model, llava.batches["left"]
    name = "blocks.1.attn.hook_pattern"
    trace = model.trace_generation(batch, names=name, max_new_tokens=3)
    prompt = batch["input_ids"].shape[1]
    assert [tuple(step.shape) for step in trace[name]] == [(2, 4, prompt + i) for i in range(3)]
    _, cache = model.run_with_cache(extended(model, batch, trace.tokens), names=name)
    for step, pattern in enumerate(trace[name]):
        row = cache[name][:, :, prompt - 1 + step, : prompt + step]
        torch.testing.assert_close(pattern, row, atol=1e-5, rtol=0)


@torch.no_grad()
def test_extend_gives_the_batch_that_generation_went_through(subject: Subject) -> None:
    model, batch = subject.model, subject.batches["left"]
    trace = model.trace_generation(batch, names="hook_logits", max_new_tokens=3)
    longer = model.extend(batch, trace.tokens)
    by_hand = extended(model, batch, trace.tokens)
    assert set(longer) == set(by_hand)
    assert all(
        torch.equal(longer[key].long() if key == "mm_token_type_ids" else longer[key], by_hand[key].to(longer[key]))
        for key in longer
    )
    assert torch.equal(longer.layout.last, batch.layout.last + trace.tokens.shape[1])
    assert [p.size for p in longer.layout.places] == [p.size for p in batch.layout.places]


def test_answer_and_caption_are_the_generated_text(subject: Subject) -> None:
    model = subject.model
    pictures = [picture(0), picture(1)]
    one = model.answer(pictures[0], SHORT, max_new_tokens=3)
    batch = model.prepare(SHORT, images=pictures[0])
    new = subject.bare.generate(**batch, do_sample=False, max_new_tokens=3)
    new = new[:, batch["input_ids"].shape[1] :]
    assert one == model.tokenizer.decode(new[0], skip_special_tokens=True).strip()
    several = model.answer(pictures, [SHORT, LONG], max_new_tokens=3)
    assert several[0] == one
    assert model.caption(pictures, prompt=SHORT, max_new_tokens=3)[0] == one


def test_what_a_trace_refuses(subject: Subject) -> None:
    model = subject.model
    with pytest.raises(InputError, match=r"vision.hook_embed do not live on the positions that predict tokens"):
        model.trace_generation(subject.batches["left"], names="vision.hook_embed")
    with pytest.raises(
        InputError, match=r"Samples \[0\] are padded on the right, so their next token would follow padding"
    ):
        model.trace_generation(subject.batches["right"])
    with pytest.raises(InputError, match=r"Samples \[0\] are padded on the right, so their next token would follow"):
        model.generate(subject.batches["right"], max_new_tokens=1)
    with pytest.raises(InputError, match="max_new_tokens=0 must be at least 1"):
        model.trace_generation(subject.batches["left"], max_new_tokens=0)
    with pytest.raises(InputError, match=r"blocks.0.attn.hook_rot_k run over all keys so far"):
        model.trace_generation(subject.batches["left"], names="blocks.0.attn.hook_rot_k")
    trace = model.trace_generation(subject.batches["left"], names="hook_logits", max_new_tokens=1)
    with pytest.raises(InputError, match="The trace holds no 'hook_embed'; it was taken at hook_logits"):
        trace["hook_embed"]


def test_the_family_is_found_for_subclasses() -> None:
    model = TINY[0].make().hf_model
    derived = type("MyLlava", (type(model),), {})
    again = bare_copy(TINY[0].make())
    again.__class__ = derived
    assert find_family(again).name == "llava"
