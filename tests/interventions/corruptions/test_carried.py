"""Corruptions behind the pixels: what they put where, in every run of the batch, and sweeps against a plain loop."""

from typing import Any

import pytest
import torch

from mmlens.analysis.metrics import logit_difference
from mmlens.analysis.patching.sweep import patch
from mmlens.core import positions
from mmlens.core.errors import InputError
from mmlens.interventions.corruptions import blank, blur, mean, noise, shuffle
from tests.analysis.patching.plain import answers, copying, rows_named
from tests.conftest import Subject
from tests.families.cross_attending import mllama
from tests.families.encoder_decoder import florence2
from tests.tiny import picture

LEVELS = ["hook_embed", "projector.hook_out", "vision.hook_embed"]


def rows_at(model: Any, batch: Any, name: str) -> list[torch.Tensor]:
    """Each sample's picture rows at a point, read in a run."""
    _, cache = model.run_with_cache(batch, names=name)
    batched = model.graph[name].axes.startswith("batch")
    rows = rows_named(batch, model, name, "image")
    return [cache[name][(sample, chosen) if batched else chosen] for sample, chosen in enumerate(rows)]


@pytest.mark.parametrize("level", LEVELS)
def test_what_stands_at_the_point_is_what_the_corruption_says(subject: Subject, level: str) -> None:
    model, clean = subject.model, subject.batches["left"]
    before = torch.cat(rows_at(model, clean, level))
    unit = float((before - before.mean(0)).pow(2).mean().sqrt())
    added = torch.cat(rows_at(model, noise(model, clean, sigma=2.0, at=level, seed=1), level)) - before
    assert float(added.std()) == pytest.approx(2 * unit, rel=0.12)
    assert float(added.mean()) == pytest.approx(0.0, abs=0.3 * unit)
    assert torch.cat(rows_at(model, blank(model, clean, at=level), level)).abs().max() == 0
    reference = clean
    averaged = torch.cat(rows_at(model, mean(model, clean, [reference, reference], at=level), level))
    torch.testing.assert_close(averaged, before.mean(0).expand_as(averaged))
    for old, new in zip(
        rows_at(model, clean, level), rows_at(model, shuffle(model, clean, at=level, seed=2), level), strict=True
    ):
        assert not torch.equal(old, new)
        assert sorted(old.sum(-1).tolist()) == sorted(new.sum(-1).tolist())


def test_rows_of_text_and_the_other_sample_keep_their_values(subject: Subject) -> None:
    model, clean = subject.model, subject.batches["left"]
    corrupted = noise(model, clean)
    _, before = model.run_with_cache(clean, names="hook_embed")
    _, after = model.run_with_cache(corrupted, names="hook_embed")
    changed = (before["hook_embed"] != after["hook_embed"]).any(-1)
    assert torch.equal(changed, clean.layout.is_image)
    assert repr(corrupted).endswith("; noise of 3 spreads, seed 0, at hook_embed)")


@torch.no_grad()
def test_every_run_of_the_batch_is_corrupted_and_leaves_nothing_behind(llava: Subject) -> None:
    model, clean = llava.model, llava.batches["left"]
    corrupted = blank(model, clean, at="hook_embed")
    expected = model(corrupted)
    assert not torch.equal(expected, model(clean))
    with model.hooks([("hook_embed", lambda x, hook: x.masked_fill(clean.layout.is_image[..., None], 0.0))]):
        torch.testing.assert_close(model(clean), expected)
    trace = model.trace_generation(corrupted, names="hook_logits", max_new_tokens=3)
    assert torch.equal(trace.tokens[:, 0], expected[:, -1].argmax(-1))
    longer = model(model.extend(corrupted, trace.tokens[:, :1]))[:, -1]
    assert torch.equal(trace.tokens[:, 1], longer.argmax(-1))
    assert not any(point.attached for point in model.hook_dict.values())
    with pytest.raises(RuntimeError, match="stop"), model.hooks([("blocks.0.hook_resid_pre", _stop)]):
        model(corrupted)
    assert not any(point.attached for point in model.hook_dict.values())


def _stop(activation: torch.Tensor, hook: Any) -> None:
    raise RuntimeError("stop")


@torch.no_grad()
def test_what_a_batch_carries_comes_before_the_hooks_of_the_caller(llava: Subject) -> None:
    model, clean = llava.model, llava.batches["left"]
    corrupted = noise(model, clean)
    _, cache = model.run_with_cache(clean, names="hook_embed")
    with model.hooks([("hook_embed", lambda x, hook: cache["hook_embed"])]):
        torch.testing.assert_close(model(corrupted), model(clean))


@pytest.mark.parametrize("level", LEVELS)
def test_sweeps_on_a_carried_corruption_equal_the_plain_loop(subject: Subject, level: str) -> None:
    """At points in front of the corruption, at it, and behind it."""
    model, clean = subject.model, subject.batches["left"]
    corrupted = noise(model, clean, at=level, seed=3)
    metric = logit_difference("red", "blue")
    ids = [model.to_single_token(word) for word in ("red", "blue")]

    def difference(logits: torch.Tensor) -> torch.Tensor:
        return logits[:, ids[0]] - logits[:, ids[1]]

    _, cache = model.run_with_cache(clean, names="*")
    largest = 0.0
    for name in ("vision.hook_embed", "vision.blocks.1.hook_resid_pre", *LEVELS[:2], "blocks.1.hook_resid_pre"):
        sweep = patch(model, clean, corrupted, at=name, positions=["image"], metric=metric, progress=False)
        hook = copying(model, name, cache[name], rows_named(clean, model, name, "image"))
        expected = difference(answers(model, corrupted, [hook]))
        torch.testing.assert_close(sweep.values[0, 0], expected, rtol=0, atol=1e-5)
        torch.testing.assert_close(sweep.corrupted, difference(answers(model, corrupted)), rtol=0, atol=1e-5)
        largest = max(largest, float((expected - sweep.corrupted).abs().max()))
        back = patch(
            *(model, clean, corrupted), at=name, positions=["image"], metric=metric, direction="noise", progress=False
        )
        _, other = model.run_with_cache(corrupted, names=name)
        hook = copying(model, name, other[name], rows_named(clean, model, name, "image"))
        torch.testing.assert_close(back.values[0, 0], difference(answers(model, clean, [hook])), rtol=0, atol=1e-5)
    assert largest > 0.01


def test_a_region_names_the_rows_under_it(llava: Subject) -> None:
    model, clean = llava.model, llava.batches["left"]
    box = (8, 0, 24, 16)
    _, before = model.run_with_cache(clean, names="hook_embed")
    _, after = model.run_with_cache(blank(model, clean, at="hook_embed", region=box), names="hook_embed")
    changed = (before["hook_embed"] != after["hook_embed"]).any(-1)
    for sample in range(2):
        assert changed[sample].nonzero().flatten().tolist() == sorted(clean.layout.patches(box, sample=sample).tolist())


def test_what_cannot_be_is_refused(llava: Subject, blip: Subject) -> None:
    model, clean = llava.model, llava.batches["left"]
    with pytest.raises(
        InputError, match=r"at='blocks.0.attn.hook_z' is \[batch query head d_head\]; corruptions stand at"
    ):
        noise(model, clean, at="blocks.0.attn.hook_z")
    for sigma in (0, -1.0, float("nan"), float("inf"), True, "3"):
        with pytest.raises(InputError, match=rf"^noise: sigma={sigma!r} must be (a finite number|above 0)"):
            noise(model, clean, sigma=sigma)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="The rows at hook_embed are all equal, so their spread is 0"):
        noise(model, model.prepare("the image", images=clean.images[0]), positions="last")
    with pytest.raises(InputError, match="color has a meaning for pixels alone"):
        blank(model, clean, at="hook_embed", color=(0, 0, 0))
    with pytest.raises(InputError, match="was given no batch to take the mean over"):
        mean(model, clean, [])
    with pytest.raises(
        InputError, match="corrupted already, by noise of 3 spreads, seed 0, at hook_embed; corrupt the pixels"
    ):
        blur(model, noise(model, clean))
    with pytest.raises(
        InputError, match=r"is a part of the picture, and rows of the queries sequence at .* have no place in it"
    ):
        blank(blip.model, blip.batches["left"], at="projector.hook_out", region=(0, 0, 8, 8))


def test_what_would_change_nothing_is_refused(llava: Subject) -> None:
    model, clean = llava.model, llava.batches["left"]
    at = "hook_embed"
    with pytest.raises(
        InputError, match=r"^shuffle, seed 0, at hook_embed would leave the rows of samples \[0, 1\] as they"
    ):
        shuffle(model, clean, positions="last")
    with pytest.raises(InputError, match=r"^zeros at hook_embed would leave the rows of samples \[0, 1\] as they are"):
        blank(model, blank(model, clean, at=at), at=at)
    alone = model.prepare("the image", images=clean.images[0])
    with pytest.raises(
        InputError, match=r"^mean vector at hook_embed would leave the rows of samples \[0\] as they are"
    ):
        mean(model, alone, alone, positions="last")
    for seed in range(8):  # two rows have one other order
        _, before = model.run_with_cache(clean, names=at)
        _, after = model.run_with_cache(shuffle(model, clean, positions=[-2, -1], seed=seed), names=at)
        assert torch.equal(after[at][:, -2:], before[at][:, -2:].flip(1))


def test_one_area_is_named_and_it_is_of_effect(llava: Subject) -> None:
    model, clean = llava.model, llava.batches["left"]
    box = (8, 0, 24, 16)
    for corrupt in (blank, noise, shuffle, lambda *given, **more: mean(*given, clean, **more)):
        with pytest.raises(
            InputError, match=r"positions=\[3\] are rows of a point, and at='pixels' has none; name a part of"
        ):
            corrupt(model, clean, at="pixels", positions=[3])  # type: ignore[operator]
        with pytest.raises(InputError, match=r"positions=\[3\] and a region both say which rows; give one of them"):
            corrupt(model, clean, at="hook_embed", positions=[3], region=box)  # type: ignore[operator]
    _, before = model.run_with_cache(clean, names="hook_embed")
    _, after = model.run_with_cache(blank(model, clean, at="hook_embed", positions=[3]), names="hook_embed")
    changed = (before["hook_embed"] != after["hook_embed"]).any(-1)
    first = clean.layout.is_token.int().argmax(1)  # an index counts a sample's own tokens
    assert [row.nonzero().flatten().tolist() for row in changed] == [[int(start) + 3] for start in first]
    by_region = blank(model, clean, at="hook_embed", region=box)
    by_rule = blank(model, clean, at="hook_embed", positions=positions.box(box))
    torch.testing.assert_close(model(by_region), model(by_rule))


@pytest.mark.parametrize("use_cache", [True, False])
@torch.no_grad()
def test_a_generation_reads_the_corrupted_prompt(llava: Subject, blip: Subject, use_cache: bool) -> None:
    """What is written follows the prompt, and is no part of what was corrupted: where it comes with the prompt again, too."""
    for subject, at, where in ((llava, "blocks.1.hook_resid_post", "text"), (blip, "projector.hook_out", "all")):
        model, clean = subject.model, subject.batches["left"]
        corrupted = noise(model, clean, at=at, positions=where, sigma=1.0)  # type: ignore[arg-type]
        options: dict[str, Any] = {"names": "hook_logits", "max_new_tokens": 3, "use_cache": use_cache}
        found = model.trace_generation(corrupted, **options)
        assert not torch.equal(found.logits, model.trace_generation(clean, **options).logits)
        longer = model(model.extend(corrupted, found.tokens[:, :-1]))[:, -found.tokens.shape[1] :]
        torch.testing.assert_close(found.logits, longer, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("use_cache", [True, False])
@torch.no_grad()
def test_a_decoder_starts_from_one_corrupted_position(use_cache: bool) -> None:
    model, at = florence2(), "blocks.0.hook_resid_post"
    batch = model.prepare("describe the image", images=picture())
    corrupted = blank(model, batch, at=at, positions="all")
    states = model.trace_generation(corrupted, names=at, max_new_tokens=3, use_cache=use_cache).states[at]
    assert states[:, 0].abs().max() == 0
    assert states[:, 1:].norm(dim=-1).min() > 1


def test_pictures_that_cross_attention_reads_are_corrupted_in_the_tower() -> None:
    model = mllama()
    batch = model.prepare("a red circle", images=picture())
    corrupted = noise(model, batch)
    assert [carried.at for carried in corrupted.carried] == ["vision.hook_embed"]
    assert not torch.equal(model(corrupted), model(batch))
