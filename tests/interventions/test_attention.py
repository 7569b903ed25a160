"""Attention given to the picture: by raised scores, and by what sinks lose; against formulas by hand."""

import pytest
import torch

import mmlens as mm
from mmlens.core.errors import InputError
from mmlens.interventions.sink_redistribution import redistributed
from mmlens.models.hooked import HookedMultimodal
from tests.conftest import LONG, SHORT, Subject
from tests.tiny import picture

SCORES, PATTERNS = "blocks.*.attn.hook_attn_scores", "blocks.*.attn.hook_pattern"


def shares(model: HookedMultimodal, batch: mm.MultimodalBatch) -> torch.Tensor:
    """How much of the last position's attention goes to the picture, `[layer batch head]`."""
    _, cache = model.run_with_cache(batch, names=PATTERNS)
    image = batch.layout.is_image[:, None]
    return torch.stack([(cache[name][:, :, -1] * image).sum(-1) for name in cache])


def test_a_boost_raises_the_share_of_the_picture_in_its_layers_alone(subject: Subject) -> None:
    model, batch = subject.model, subject.batches["left"]
    before = shares(model, batch)
    with model.intervene(mm.mitigation.BoostAttention(alpha=0.5, layers=[1])):
        after = shares(model, batch)
        _, cache = model.run_with_cache(batch, names="blocks.0.attn.hook_pattern")
    assert torch.equal(before[0], after[0])
    assert (after[1] > before[1]).all()
    _, plain = model.run_with_cache(batch, names="blocks.0.attn.hook_pattern")
    assert torch.equal(cache["blocks.0.attn.hook_pattern"], plain["blocks.0.attn.hook_pattern"])


def test_a_boost_by_hand(subject: Subject) -> None:
    """s + alpha |s| at what the last row sees of the picture; nothing else moves, padding stays hidden."""
    model, batch, at = subject.model, subject.batches["left"], "blocks.1.attn.hook_attn_scores"
    _, cache = model.run_with_cache(batch, names=at)
    old = cache[at]
    pairs = torch.zeros(old.shape, dtype=torch.bool)
    pairs[:, :, -1] = batch.layout.is_image[:, None]
    expected = torch.where(pairs, old + 0.3 * old.abs(), old)
    with model.intervene(mm.mitigation.BoostAttention(alpha=0.3)):
        found = model.run_with_cache(batch, names="blocks.0.attn.hook_attn_scores")[1]
    first = model.run_with_cache(batch, names="blocks.0.attn.hook_attn_scores")[1]
    name = "blocks.0.attn.hook_attn_scores"
    torch.testing.assert_close(found[name], torch.where(pairs, first[name] + 0.3 * first[name].abs(), first[name]))
    with model.intervene(mm.mitigation.BoostAttention(alpha=0.3, layers=[1])):
        torch.testing.assert_close(model.run_with_cache(batch, names=at)[1][at], expected)
    assert not torch.equal(expected, old)


def test_a_boost_acts_on_every_new_token(llava: Subject) -> None:
    """A generation is a forward over its tokens, in which the last position and the new ones are boosted."""
    model, batch = llava.model, llava.batches["left"]
    with model.intervene(mm.mitigation.BoostAttention(alpha=0.8)):
        trace = model.trace_generation(batch, names="hook_logits", max_new_tokens=3)
        whole = model.extend(batch, trace.tokens[:, :-1], as_new=True)
        torch.testing.assert_close(model(whole)[:, -3:], trace.logits, atol=1e-4, rtol=1e-4)
    assert (model(whole)[:, -1] - trace.logits[:, -1]).abs().max() > 1e-3


def test_what_cannot_be_boosted_is_refused(llava: Subject) -> None:
    with pytest.raises(InputError, match="alpha=0"):
        mm.mitigation.BoostAttention(alpha=0.0)
    model = llava.model
    words = model.prepare([SHORT])
    with model.intervene(mm.mitigation.BoostAttention()), pytest.raises(InputError, match="image"):
        model(words)


def planted_sinks(model: HookedMultimodal, batch: mm.MultimodalBatch) -> tuple[list[mm.Add], torch.Tensor]:
    """One coordinate made huge at each prompt's first token and at its third image token, from the input on."""
    huge = torch.zeros(model.cfg.d_model)
    huge[7] = 400.0
    rows = torch.zeros_like(batch.layout.is_token)
    for sample, image in enumerate(batch.layout.image):
        rows[sample, image[2]] = rows[sample, int(batch.layout.is_token[sample].long().argmax())] = True
    where = [sample[own].nonzero().flatten() for sample, own in zip(rows, batch.layout.is_token, strict=True)]
    return [mm.Add("blocks.1.hook_resid_pre", huge, positions=where)], rows


def test_planted_sinks_lose_to_the_picture(subject: Subject) -> None:
    """By hand from the pattern without it; rows add up to 1. Without the planted coordinate nothing is touched, bit for bit."""
    model, batch, at = subject.model, subject.batches["left"], "blocks.1.attn.hook_pattern"
    planted, sinks = planted_sinks(model, batch)
    act = mm.mitigation.RedistributeSinks(layers=[1], threshold=4.0, least_image=0.01, most_sink=1.0)
    with model.intervene(*planted):
        before = model.run_with_cache(batch, names=at)[1][at].double()
    with model.intervene(*planted, act):
        after = model.run_with_cache(batch, names=at)[1][at]
    image = batch.layout.is_image
    expected = before.clone()
    for sample in range(batch.size):
        for head in range(before.shape[1]):
            for query in range(int(batch.layout.image[sample][-1]) + 1, before.shape[2]):
                row = before[sample, head, query]
                others = image[sample] & ~sinks[sample]
                freed = 0.4 * row[sinks[sample]].sum()
                new = torch.where(sinks[sample], 0.6 * row, row)
                expected[sample, head, query] = torch.where(others, row * (1 + freed / row[others].sum()), new)
    torch.testing.assert_close(after.double(), expected, atol=1e-5, rtol=1e-5)
    assert (after - before).abs().max() > 1e-3
    assert act.touched.tokens > 0
    torch.testing.assert_close(after.sum(-1), before.sum(-1).float())
    with model.intervene(act):
        untouched = model(batch)
    assert act.touched.tokens == 0
    assert torch.equal(untouched, model.run_with_hooks(batch, fwd_hooks=[(at, lambda x, hook: x)]))


def test_sinks_of_the_prompt_in_a_generation(llava: Subject) -> None:
    model, batch = llava.model, llava.batches["left"]
    planted, _ = planted_sinks(model, batch)
    act = mm.mitigation.RedistributeSinks(layers=[1, 2], threshold=4.0, least_image=0.0, most_sink=1.0)
    with model.intervene(*planted, act):
        trace = model.trace_generation(batch, names="hook_logits", max_new_tokens=3)
        whole = model.extend(batch, trace.tokens[:, :-1], as_new=True)
        torch.testing.assert_close(model(whole)[:, -3:], trace.logits, atol=1e-4, rtol=1e-4)
    with model.intervene(*planted):
        assert (model(whole)[:, -3:] - trace.logits).abs().max() > 1e-4


def test_heads_that_do_not_look_at_the_picture_are_left_alone() -> None:
    """Keys: a sink of text, an image token, a sink in the picture, a word. By hand."""
    pattern = torch.tensor([[0.5, 0.3, 0.1, 0.1], [0.85, 0.05, 0.05, 0.05], [0.3, 0.1, 0.5, 0.1]])[None, None]
    image, sink = torch.tensor([False, True, True, False]), torch.tensor([True, False, True, False])
    new, changed = redistributed(
        pattern, image[None, None, None], sink[None, None, None], torch.ones(1, 1, 3).bool(),
        factor=0.6, least_image=0.2, most_sink=0.5,
    )  # fmt: skip
    assert changed[0, 0].tolist() == [True, False, False]
    torch.testing.assert_close(new[0, 0, 0], torch.tensor([0.3, 0.54, 0.06, 0.1]))
    assert torch.equal(new[0, 0, 1:], pattern[0, 0, 1:])


def test_refusals_of_redistribution(llava: Subject) -> None:
    model = llava.model
    with pytest.raises(InputError, match="factor=1"):
        mm.mitigation.RedistributeSinks(factor=1.0)
    with pytest.raises(InputError, match="layers="), model.intervene(mm.mitigation.RedistributeSinks(layers=[9])):
        pass
    with pytest.raises(InputError, match="coordinates"), model.intervene(mm.mitigation.RedistributeSinks(dims=[99])):
        pass
    words = model.prepare([LONG])
    with model.intervene(mm.mitigation.RedistributeSinks()), pytest.raises(InputError, match="have none"):
        model(words)
    assert model(model.prepare([SHORT], images=[[picture(0)]])).isfinite().all()
