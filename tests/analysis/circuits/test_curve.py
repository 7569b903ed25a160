"""Curves of faithfulness: by hand, on planted circuits, over batches of several layouts, and from their files."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.integrate import trapezoid

import mmlens as mm
from mmlens.analysis.circuits.curve import SIZES
from mmlens.analysis.circuits.curve_result import CircuitCurve
from mmlens.analysis.circuits.ratios import ratio_interval
from mmlens.analysis.statistics.intervals import mean_interval
from mmlens.core.errors import InputError
from tests.analysis.circuits.conftest import METRIC, other_pictures, planted_pair
from tests.analysis.conftest import Wrapped
from tests.conftest import Subject


def by_hand(values: torch.Tensor, shares: Any = SIZES, **options: Any) -> CircuitCurve:
    """A curve of two rankings that are one, of samples whose model gives 4 and 2, and 0 and 1 with all ablated."""
    none = torch.zeros(0, len(shares), values.shape[-1])
    whole, empty = torch.tensor([4.0, 2.0]), torch.tensor([0.0, 1.0])
    asked: dict[str, Any] = {"random": none, "permuted": none, "whole": whole, "empty": empty, **options}
    edges = torch.arange(len(shares)).expand(2, -1)
    return CircuitCurve(
        torch.tensor(shares), edges, 1000, values.expand(2, -1, -1), metric="m", method="exact", **asked
    )


def test_means_come_before_the_ratio_and_areas_are_trapezoids() -> None:
    values = torch.rand(10, 2, generator=torch.Generator().manual_seed(0)) * 5
    curve = by_hand(values)
    f = (values.mean(1) - 0.5) / (3.0 - 0.5)
    torch.testing.assert_close(curve.faithfulness, f.double().expand(2, -1), rtol=1e-6, atol=1e-6)
    assert curve.cpr().mean == pytest.approx(trapezoid(f.numpy(), SIZES), rel=1e-6)
    assert curve.cmd().mean == pytest.approx(trapezoid((1 - f).abs().numpy(), SIZES), rel=1e-6)
    whole = by_hand(torch.tensor([[4.0, 2.0]] * 10))
    assert (whole.cpr().mean, whole.cmd().mean) == (pytest.approx(0.999), pytest.approx(0.0))
    assert by_hand(torch.tensor([[0.0, 1.0]] * 10)).cpr().mean == pytest.approx(0.0)


def test_intervals_of_ratios_cover_what_they_say() -> None:
    rng = np.random.default_rng(0)
    first = np.zeros((1, 1))

    def pick(ratios: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return ratios[:, 0], first + 1

    covered = 0
    for seed in range(200):
        below = rng.normal(3.0, 1.0, 16)
        above = 0.7 * below + rng.normal(0.0, 0.5, 16)
        interval = ratio_interval(above[None], below, pick, seed=seed)
        covered += interval.low < 0.7 < interval.high
    assert 0.90 <= covered / 200 <= 0.99
    # of equal denominators the ratio is a mean, and its interval that of a mean
    values = rng.normal(1.0, 1.0, 16)
    ratio, mean = ratio_interval(values[None], np.ones(16), pick), mean_interval(values)
    assert ratio.mean == pytest.approx(mean.mean)
    assert (ratio.low, ratio.high) == (pytest.approx(mean.low, abs=0.1), pytest.approx(mean.high, abs=0.1))
    few, student = ratio_interval(values[None, :4], np.ones(4), pick), mean_interval(values[:4])
    assert (few.low, few.high) == (pytest.approx(student.low), pytest.approx(student.high))
    # samples of one scene count once
    twice = ratio_interval(np.repeat(values, 2)[None], np.ones(32), pick, groups=np.repeat(np.arange(16), 2))
    assert (twice.low, twice.high) == (pytest.approx(ratio.low), pytest.approx(ratio.high))


def test_the_planted_circuit_is_found_on_some_pictures_and_judged_on_others(
    planted_patch: Wrapped, tmp_path: Path
) -> None:
    truth, model = planted_patch.truth, planted_patch.model
    metric = mm.metrics.logit_difference(truth.token, truth.default_token)
    found = mm.find_circuit(model, planted_pair(planted_patch), metric=metric, method="eap", progress=False)
    fresh = [
        model.prepare(
            [planted_patch.planted.prompt] * 2, images=[[planted_patch.planted.image(p, seed=s)] for s in (7, 8)]
        )
        for p in (True, False)
    ]
    total = int(found.graph.allowed.sum())
    sizes = [0.0, 1.1 / total, 3.1 / total, 0.5, 1.0]
    asked: dict[str, Any] = {"metric": metric, "sizes": sizes, "n_random": 3, "progress": False}
    curve = mm.circuits.curve(model, found, (fresh[0], fresh[1]), **asked)
    assert curve.n_edges[0, :3].tolist() == [0, 0, 3]  # a single edge leads nowhere
    f = curve.faithfulness
    assert f[:, :2].abs().max() == 0.0
    torch.testing.assert_close(f[:, 2:], torch.ones(2, 3).double(), rtol=0, atol=0.02)
    assert float(curve.ratios(curve.random)[:, 2].max()) < 0.05
    assert curve.standing().at_least == 0
    assert curve.cpr().mean > curve.band("permuted").high - 1e-9
    frame = curve.to_frame()
    assert frame["signed_edges"].tolist()[:3] == [0, 0, 3]
    assert frame["random_f"].tolist()[2] < 0.05
    assert "CPR" in repr(curve)
    again = CircuitCurve.load(curve.save(tmp_path / "curve.safetensors"))
    assert repr(again) == repr(curve)
    assert again.to_frame().equals(frame)
    assert len(curve.plot().axes) == 1
    assert "CPR" in curve.view().html
    with pytest.raises(InputError, match=r"There is no 'AUC' of 'random'; there are CPR and CMD"):
        curve.band("random", "AUC")
    with pytest.raises(InputError, match="have the same metric, so there is no gap"):
        mm.circuits.curve(model, found, (fresh[0], fresh[0]), **asked)


def test_every_draw_of_a_resumed_curve_is_the_same(planted_patch: Wrapped, tmp_path: Path) -> None:
    truth, model = planted_patch.truth, planted_patch.model
    metric = mm.metrics.logit_difference(truth.token, truth.default_token)
    pairs = [planted_pair(planted_patch, 2), planted_pair(planted_patch, 1)]
    found = mm.find_circuit(model, pairs, metric=metric, method="eap", nodes="attention", progress=False)
    asked: dict[str, Any] = {"metric": metric, "n_random": 2, "sizes": [0.1, 0.5], "progress": False}
    plain = mm.circuits.curve(model, found, pairs, **asked)
    path = tmp_path / "curve.ck"
    first = mm.circuits.curve(model, found, pairs, checkpoint=path, **asked)
    calls: list[int] = []
    handle = model.hf_model.register_forward_pre_hook(lambda *_: calls.append(1))
    second = mm.circuits.curve(model, found, pairs, checkpoint=path, **asked)
    handle.remove()
    assert len(calls) <= 2 * len(pairs)  # the clean and the corrupted runs alone
    for name in ("values", "random", "permuted", "whole", "empty"):
        assert torch.equal(getattr(first, name), getattr(second, name))
        assert torch.equal(getattr(first, name), getattr(plain, name))


def test_batches_of_several_layouts_are_one_dataset(subject: Subject) -> None:
    model = subject.model
    clean, corrupted = other_pictures(subject)
    alone = [
        tuple(model.prepare(batch.prompts[s], images=batch.images[s][0]) for batch in (clean, corrupted))
        for s in (0, 1)
    ]
    assert len({pair[0].layout.is_token.shape for pair in alone}) == 2, "the layouts differ"
    asked: dict[str, Any] = {"metric": METRIC, "nodes": "attention", "progress": False}
    together = mm.find_circuit(model, (clean, corrupted), method="eap", **asked)
    apart = mm.find_circuit(model, alone, method="eap", **asked)
    assert apart.graph.writers == together.graph.writers
    torch.testing.assert_close(apart.scores, together.scores, rtol=1e-3, atol=1e-4)
    curves = [
        mm.circuits.curve(model, together, pairs, metric=METRIC, n_random=0, sizes=[0.05, 0.3, 1.0], progress=False)
        for pairs in ((clean, corrupted), alone)
    ]
    torch.testing.assert_close(curves[0].values, curves[1].values, rtol=1e-3, atol=1e-4)
    words = mm.metrics.logit_difference(["red", "blue"], ["blue", "red"])
    named = [
        mm.find_circuit(model, p, method="eap", **{**asked, "metric": words}).scores
        for p in ((clean, corrupted), alone)
    ]
    torch.testing.assert_close(named[0], named[1], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(named[1][..., 1], -apart.scores[..., 1], rtol=1e-3, atol=1e-4)
