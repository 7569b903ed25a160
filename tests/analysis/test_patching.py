"""Patching: against a plain loop, and against a model whose patch and head are known."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from mmlens.analysis.metrics import log_probability, logit_difference
from mmlens.analysis.patching.sweep import patch
from mmlens.core.errors import InputError, UnknownNameError
from mmlens.interventions.corruptions import blur, swap
from tests.analysis.conftest import Wrapped
from tests.conftest import Subject
from tests.tiny import picture

METRIC = logit_difference("red", "blue")


def plain(subject: Subject, clean: object, corrupted: object, name: str, rows: Any) -> torch.Tensor:
    """One cell by hand, on the bare Hugging Face model's block inputs."""
    model = subject.model
    _, cache = model.run_with_cache(clean, names=name)  # type: ignore[arg-type]

    def put(activation: torch.Tensor, hook: object) -> torch.Tensor:
        new = activation.clone()
        for sample, chosen in enumerate(rows):
            new[sample, chosen] = cache[name][sample, chosen]
        return new

    logits = model.run_with_hooks(corrupted, fwd_hooks=[(name, put)])  # type: ignore[arg-type]
    last = corrupted.layout.last  # type: ignore[attr-defined]
    at_last = logits[torch.arange(len(logits)), last]
    return at_last[:, model.to_single_token("red")] - at_last[:, model.to_single_token("blue")]


@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_every_cell_equals_the_plain_loop(subject: Subject, side: str) -> None:
    clean = subject.batches[side]
    corrupted = blur(subject.model, clean, radius=8)
    sweep = patch(
        subject.model,
        clean,
        corrupted,
        at="blocks.*.hook_resid_pre",
        metric=METRIC,
        positions=["image", "last"],
        progress=False,
    )
    largest = 0.0
    for i, name in enumerate(sweep.points):
        for j, word in enumerate(("image", "last")):
            rows = clean.layout.image if word == "image" else clean.layout.last[:, None]
            expected = plain(subject, clean, corrupted, name, rows)
            torch.testing.assert_close(sweep.values[i, j], expected, rtol=0, atol=1e-5)
            largest = max(largest, float((expected - sweep.corrupted).abs().max()))
    assert largest > 0.01, f"the comparison could not fail: no patch moved the metric by more than {largest}"
    shifted = plain(subject, clean, corrupted, sweep.points[0], [rows - 1 for rows in clean.layout.image])
    assert not torch.allclose(sweep.values[0, 0], shifted, atol=1e-5), "a shifted row should have been caught"


def test_whole_streams_patched_at_the_first_block_bring_the_clean_run_back(subject: Subject) -> None:
    clean = subject.batches["left"]
    corrupted = swap(subject.model, clean, [[picture(8, p[0].height, p[0].width)] for p in clean.images])
    kwargs = {"at": "hook_embed", "metric": METRIC, "positions": ["all"], "progress": False}
    sweep = patch(subject.model, clean, corrupted, **kwargs)  # type: ignore[arg-type]
    torch.testing.assert_close(sweep.recovered[0, 0], torch.ones(2), rtol=0, atol=1e-4)
    back = patch(subject.model, clean, corrupted, direction="noise", **kwargs)  # type: ignore[arg-type]
    torch.testing.assert_close(back.values[0, 0], sweep.corrupted, rtol=0, atol=1e-5)
    torch.testing.assert_close(back.clean, sweep.clean)
    torch.testing.assert_close(back.effect[0, 0], sweep.corrupted - sweep.clean, rtol=0, atol=1e-5)


def test_the_planted_patch_and_layer_are_found(planted_patch: Wrapped) -> None:
    truth, model = planted_patch.truth, planted_patch.model
    clean, corrupted = planted_patch.batch(), planted_patch.batch(False)
    sweep = patch(
        model,
        clean,
        corrupted,
        at="blocks.*.hook_resid_pre",
        metric=logit_difference(truth.token, truth.default_token),
        positions="each",
        progress=False,
    )
    row = int(clean.layout.patches(truth.box)[0])
    last = int(clean.layout.last[0])
    recovered = sweep.recovered[..., 0]
    for layer in range(len(sweep.points)):
        carries = row if layer <= truth.head_layer else last
        assert recovered[layer].argmax() == carries
        assert recovered[layer, carries] == pytest.approx(1.0, abs=0.05)
        others = torch.arange(recovered.shape[1]) != carries
        assert recovered[layer, others].abs().max() < 0.1


def test_nothing_is_found_in_the_unplanted_twin(planted_patch: Wrapped) -> None:
    truth = planted_patch.truth
    metric = logit_difference(truth.token, truth.default_token)
    pair = planted_patch.batch(), planted_patch.batch(False)
    found, none = (
        patch(model, *pair, at="blocks.*.hook_resid_pre", metric=metric, positions="each", progress=False)
        for model in (planted_patch.model, planted_patch.twin)
    )
    assert none.effect.abs().max() < 0.05 * found.effect.abs().max()


def test_vision_points_are_patched_on_their_own_rows(llava: Subject) -> None:
    clean = llava.batches["left"]
    corrupted = blur(llava.model, clean, radius=8)
    sweep = patch(
        llava.model,
        clean,
        corrupted,
        at="vision.blocks.1.hook_resid_post",
        metric=METRIC,
        positions=["image"],
        progress=False,
    )
    torch.testing.assert_close(sweep.recovered[0, 0], torch.ones(2), rtol=0, atol=1e-3)


def no_run(model: object) -> Callable[..., None]:
    def fail(*args: object, **kwargs: object) -> None:
        raise AssertionError("the model ran before the input was refused")

    return fail


def test_refusals_come_before_any_forward_pass(llava: Subject, qwen: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    clean = llava.batches["left"]
    longer = llava.model.prepare(["describe the image now please", "red"], images=clean.images)
    turned = llava.batches["right"]
    for subject in (llava, qwen):
        monkeypatch.setattr(type(subject.model.hf_model), "forward", no_run(subject.model))
    common = {"metric": METRIC, "progress": False}
    with pytest.raises(InputError, match=r"use texts of equal token length"):
        patch(llava.model, clean, longer, at="hook_embed", **common)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"differ in where image tokens are, first at position 0 of sample 0"):
        patch(llava.model, clean, turned, at="hook_embed", **common)  # type: ignore[arg-type]
    with pytest.raises(UnknownNameError, match=r"no hook point 'blocks.0.hook_resid'.*Nearest: blocks.0.hook_resid_"):
        patch(llava.model, clean, clean, at="blocks.0.hook_resid", **common)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"positions=99 name \[99\], outside the 23 positions"):
        patch(llava.model, clean, clean, at="hook_embed", positions={"far": 99}, **common)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="direction='sideways' must be 'denoise' or 'noise'"):
        patch(llava.model, clean, clean, at="hook_embed", direction="sideways", **common)  # type: ignore[arg-type]
    both = qwen.batches["left"]
    with pytest.raises(InputError, match="holds the rows of all 2 samples in one sequence; give positions as one list per"):
        patch(qwen.model, both, both, at="vision.blocks.0.hook_resid_post", positions={"first": 0}, **common)  # type: ignore[arg-type]


def test_a_metric_must_give_one_value_per_sample(llava: Subject) -> None:
    clean = llava.batches["left"]
    with pytest.raises(InputError, match=r"one value per sample, \[batch=2\].*found \[\]"):
        patch(llava.model, clean, clean, at="hook_embed", metric=lambda logits: logits.mean(), progress=False)


def test_metrics_read_the_predicting_position(subject: Subject) -> None:
    for batch in subject.batches.values():
        logits = subject.model(batch)
        rows = logits[torch.arange(len(logits)), batch.layout.last]
        red = subject.model.to_single_token("red")
        expected = rows.log_softmax(-1)[:, red]
        torch.testing.assert_close(log_probability("red").on(subject.model)(rows), expected)
