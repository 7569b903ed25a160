"""Knock-out sweeps: against interventions one by one, and on a model whose one head is known."""

from typing import Any

import pytest
import torch

from mmlens.analysis.metrics import logit_difference
from mmlens.analysis.patching.knockout import knock_out
from mmlens.core.errors import InputError
from mmlens.interventions.knockout import KnockOut
from tests.analysis.conftest import Wrapped
from tests.analysis.patching.plain import answers
from tests.conftest import Subject

METRIC = logit_difference("red", "blue")


def difference(model: Any, batch: Any, cut: KnockOut | None = None) -> torch.Tensor:
    with model.intervene(*([] if cut is None else [cut])):
        logits = answers(model, batch)
    return logits[:, model.to_single_token("red")] - logits[:, model.to_single_token("blue")]


@pytest.mark.parametrize("side", ["left", "right"])
def test_every_window_equals_its_intervention(subject: Subject, side: str) -> None:
    model, batch = subject.model, subject.batches[side]
    halves = {"first": [rows[:3] for rows in batch.layout.image], "image": "image"}
    sweep = knock_out(model, batch, queries="last", keys=halves, window=2, metric=METRIC, progress=False)  # type: ignore[arg-type]
    assert sweep.points == ["layer 0", "layers 0-1", "layers 1-2"]
    assert sweep.groups == ["first", "image"]
    layers = [[0], [0, 1], [1, 2]]
    largest = 0.0
    for i, window in enumerate(layers):
        for j, keys in enumerate(halves.values()):
            expected = difference(model, batch, KnockOut("last", keys, layers=window))  # type: ignore[arg-type]
            torch.testing.assert_close(sweep.values[i, j], expected, rtol=0, atol=1e-5)
            largest = max(largest, float((expected - sweep.clean).abs().max()))
    assert largest > 0.01, "the comparison could not fail"
    torch.testing.assert_close(sweep.clean, difference(model, batch), rtol=0, atol=1e-5)
    torch.testing.assert_close(
        sweep.corrupted, difference(model, batch, KnockOut("last", halves["first"])), rtol=0, atol=1e-5
    )
    torch.testing.assert_close(sweep.effect, sweep.values - sweep.clean)


def test_single_heads_are_cut(llava: Subject) -> None:
    model, batch = llava.model, llava.batches["left"]
    sweep = knock_out(
        model, batch, queries="text", keys="image", heads=[1, 2], metric=METRIC, layers=[1], progress=False
    )
    cut = KnockOut("text", "image", layers=[1], heads=[1, 2])
    torch.testing.assert_close(sweep.values[0, 0], difference(model, batch, cut), rtol=0, atol=1e-5)


def test_the_planted_head_is_where_the_last_position_looks_at_the_patch(planted_patch: Wrapped) -> None:
    """Cut from the planted patch in the head's layer, the answer is lost; cut from all others it stays."""
    truth, model = planted_patch.truth, planted_patch.model
    batch = planted_patch.batch()
    row = batch.layout.patches(truth.box)
    rest = [torch.tensor([r for r in batch.layout.image[0].tolist() if r not in row.tolist()])]
    metric = logit_difference(truth.token, truth.default_token)
    sets: Any = {"patch": [row], "rest": rest}
    sweep = knock_out(model, batch, queries="last", keys=sets, metric=metric, progress=False)
    share = sweep.effect[..., 0] / (sweep.corrupted - sweep.clean)
    for layer in range(len(sweep.points)):
        assert float(share[layer, 0]) == pytest.approx(1.0 if layer == truth.head_layer else 0.0, abs=0.05)
        assert float(share[layer, 1]) == pytest.approx(0.0, abs=0.05)
    twin = knock_out(planted_patch.twin, batch, queries="last", keys=sets, metric=metric, progress=False)
    assert twin.effect.abs().max() < 0.01 * sweep.effect.abs().max()


def test_cuts_that_cannot_be_are_refused_before_any_run(llava: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = llava.model, llava.batches["left"]

    def fail(*args: object, **kwargs: object) -> None:
        raise AssertionError("the model ran before the input was refused")

    monkeypatch.setattr(type(model.hf_model), "forward", fail)
    cases: list[tuple[dict[str, Any], str]] = [
        ({"queries": "image", "keys": [-1]}, "anyway"),
        ({"queries": "last", "keys": "all"}, "would have no key left"),
        ({"queries": "last", "keys": {}}, "positions are empty"),
        ({"queries": "last", "keys": "image", "window": 0}, "window=0 must be at least 1"),
        ({"queries": "last", "keys": "image", "layers": [5]}, r"layers=\[5\] of language have no attention scores"),
        ({"queries": "last", "keys": "image", "heads": [9]}, r"heads=\[9\] must name some of the 4 heads"),
    ]
    for options, message in cases:
        with pytest.raises(InputError, match=message):
            knock_out(model, batch, metric=METRIC, progress=False, **options)


@torch.no_grad()
def test_windows_cut_the_heads_that_are_named_in_their_layers(llava: Subject) -> None:
    model, batch = llava.model, llava.batches["left"]
    common: Any = {"queries": "last", "keys": "image", "metric": METRIC, "progress": False}
    sweep = knock_out(model, batch, heads=["L0.h1", "L2.h0", "L2.h3"], **common)
    assert sweep.points == ["layer 0", "layer 2"]
    for row, cut in enumerate((("L0.h1",), ("L2.h0", "L2.h3"))):
        with model.intervene(KnockOut("last", "image", heads=cut)):
            logits = model(batch)[torch.arange(2), batch.layout.last]
        expected = logits[:, model.to_single_token("red")] - logits[:, model.to_single_token("blue")]
        torch.testing.assert_close(sweep.values[row, 0], expected, atol=1e-5, rtol=1e-4)
