"""A sweep's statistics against their formulas, its frame, its file."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mmlens.analysis.patching.result import PatchSweep
from mmlens.core.errors import InputError


def made(direction: str = "denoise", samples: int = 12) -> PatchSweep:
    generator = torch.Generator().manual_seed(0)
    clean = 2 + torch.rand(samples, generator=generator)
    corrupted = -torch.rand(samples, generator=generator)
    share = torch.tensor([[0.0, 1.0], [0.5, 0.0], [0.0, -0.25]])[..., None]
    noise = 0.01 * torch.randn(3, 2, samples, generator=generator)
    boxes = (None, torch.tensor([[0.0, 0.0, 8.0, 8.0]]))
    return PatchSweep(
        corrupted + share * (clean - corrupted) + noise,
        [f"blocks.{i}.hook_resid_pre" for i in range(3)],
        ["text", "image"],
        clean,
        corrupted,
        direction,
        "logit difference, logits",
        boxes=boxes,
    )


def test_effects_and_shares_are_what_they_are_called() -> None:
    sweep = made()
    torch.testing.assert_close(sweep.effect, sweep.values - sweep.corrupted)
    torch.testing.assert_close(made("noise").effect, sweep.values - sweep.clean)
    torch.testing.assert_close(
        sweep.mean_recovered, torch.tensor([[0.0, 1.0], [0.5, 0.0], [0.0, -0.25]]), atol=0.01, rtol=0
    )
    gap = (sweep.clean - sweep.corrupted).mean()
    torch.testing.assert_close(sweep.mean_recovered, sweep.effect.mean(-1) / gap)
    assert [(p.point, p.positions) for p in sweep.cells(3)] == [
        ("blocks.0.hook_resid_pre", "image"),
        ("blocks.1.hook_resid_pre", "text"),
        ("blocks.2.hook_resid_pre", "image"),
    ]
    patch = sweep.cells(1)[0]
    assert (
        str(patch)
        == f"blocks.0.hook_resid_pre at image: effect {float(sweep.effect[0, 1].mean()):+.3f} logits (100% of the gap recovered)"
    )


@pytest.mark.parametrize("direction", ["noise", "knock-out"])
def test_a_small_effect_of_noise_is_a_small_share_of_the_gap(direction: str) -> None:
    """Clean 20, corrupted 0: a patch that leaves 18.6 has an effect of -1.4, 7% of the gap, and not 93%."""
    clean, corrupted = torch.full((2,), 20.0), torch.zeros(2)
    sweep = PatchSweep(torch.full((1, 1, 2), 18.6), ["a"], ["b"], clean, corrupted, direction, "my metric, nats")
    assert str(sweep.cells(1)[0]) == "a at b: effect -1.400 nats (7% of the gap lost)"
    assert float(sweep.mean_share[0, 0]) == pytest.approx(0.07)
    assert (
        str(replace(sweep, direction="denoise").cells(1)[0]) == "a at b: effect +18.600 nats (93% of the gap recovered)"
    )
    assert str(replace(sweep, corrupted=clean, metric="mine").cells(1)[0]) == "a at b: effect -1.400 (no gap)"


def test_an_unfinished_cell_has_no_p_and_no_interval() -> None:
    sweep = made()
    whole = sweep.p_values(), sweep.interval()
    sweep.values[0, 0, 3] = torch.nan
    for found, before in zip((sweep.p_values(), sweep.interval()), whole, strict=True):
        assert found[0, 0].isnan().all()
        assert not found.flatten(1)[1:].isnan().any()
        assert torch.equal(found[1:], before[1:])


def test_without_a_gap_nothing_is_recovered() -> None:
    sweep = made()
    same = PatchSweep(sweep.values, sweep.points, sweep.groups, sweep.clean, sweep.clean, "denoise", "m")
    assert same.recovered.isnan().all()
    assert same.mean_recovered.isnan().all()
    assert not same.effect.isnan().any()


def test_p_values_are_those_of_all_sign_patterns() -> None:
    """Twelve samples have 4096 sign patterns: the exact p is counted by hand."""
    sweep = made()
    signs = np.array(np.meshgrid(*[[-1, 1]] * 12)).reshape(12, -1).T
    p = sweep.p_values(correction=None)
    for i in range(3):
        for j in range(2):
            effect = sweep.effect[i, j].double().numpy()
            exact = (np.abs(signs @ effect) >= abs(effect.sum()) - 1e-9).mean()
            assert float(p[i, j]) == pytest.approx(exact, abs=1e-6)
    for correction in ("max-t", "holm", "bh"):
        assert (sweep.p_values(correction=correction) >= p - 1e-12).all()
    assert float(sweep.p_values(correction="holm")[0, 1]) == pytest.approx(6 * 2 / 4096)
    assert float(sweep.p_values()[0, 1]) == pytest.approx(2 / 4096)  # no pattern but its own puts any cell as far out
    low, high = sweep.interval().unbind(-1)
    mean = sweep.effect.mean(-1).double()
    assert ((low <= mean) & (mean <= high)).all()
    assert ((low > 0) | (high < 0))[[0, 1, 2], [1, 0, 1]].all()


def test_beyond_asks_for_effects_that_matter() -> None:
    sweep = made()
    gap = float((sweep.clean - sweep.corrupted).mean())
    assert (sweep.p_values(beyond=0.4 * gap) < 0.05).nonzero().tolist() == [[0, 1], [1, 0]]
    assert (sweep.p_values(beyond=0.7 * gap) < 0.05).nonzero().tolist() == [[0, 1]]
    assert (sweep.p_values(beyond=1.2 * gap) == 1).all()


def test_beyond_is_a_size_of_either_sign() -> None:
    """An effect below zero is held against minus `beyond`: counted by hand over all sign patterns."""
    sweep = made()
    beyond = 0.24 * float((sweep.clean - sweep.corrupted).mean())
    p = sweep.p_values(beyond=beyond, correction=None)
    signs = np.array(np.meshgrid(*[[-1, 1]] * 12)).reshape(12, -1).T
    excess = sweep.effect[2, 1].double().numpy() + beyond  # the effect is below zero
    assert -0.1 < excess.mean() < 0
    assert float(p[2, 1]) == pytest.approx((np.abs(signs @ excess) >= abs(excess.sum()) - 1e-9).mean(), abs=1e-6)
    mirrored = replace(sweep, values=sweep.corrupted - sweep.effect)
    torch.testing.assert_close(mirrored.p_values(beyond=beyond, correction=None), p)


def test_the_frame_has_a_row_per_cell() -> None:
    sweep = made()
    frame = sweep.to_frame(statistics=True)
    assert list(frame.columns) == [
        "point",
        "positions",
        "value",
        "effect",
        "recovered",
        "effect_low",
        "effect_high",
        "p",
    ]
    row = frame[(frame.point == "blocks.1.hook_resid_pre") & (frame.positions == "text")].iloc[0]
    assert row.effect == pytest.approx(float(sweep.effect[1, 0].mean()))
    assert row.recovered == pytest.approx(0.5, abs=0.01)
    assert row.effect_low < row.effect < row.effect_high
    lost = made("noise").to_frame()
    assert list(lost.columns) == ["point", "positions", "value", "effect", "lost"]
    np.testing.assert_allclose(lost.lost, 1 - frame.recovered, atol=1e-6)


def test_a_sweep_survives_its_file(tmp_path: Path) -> None:
    sweep = made("noise")
    sweep.save(tmp_path / "sweep.safetensors")
    again = PatchSweep.load(tmp_path / "sweep.safetensors")
    for name in ("values", "clean", "corrupted"):
        assert torch.equal(getattr(again, name), getattr(sweep, name))
    assert (again.points, again.groups, again.direction, again.metric, again.method) == (
        *(sweep.points, sweep.groups, "noise", sweep.metric, "exact"),
    )
    assert again.boxes[0] is None
    assert torch.equal(again.boxes[1], sweep.boxes[1])  # type: ignore[arg-type]
    (tmp_path / "other").write_bytes(b"nothing of the kind")
    with pytest.raises(InputError, match="or a damaged one"):
        PatchSweep.load(tmp_path / "other")
    with pytest.raises(InputError, match="There is no patch sweep at"):
        PatchSweep.load(tmp_path / "nowhere")


def test_sweeps_of_several_batches_are_one_sweep() -> None:
    whole = made()
    parts = [
        replace(whole, values=whole.values[..., some], clean=whole.clean[some], corrupted=whole.corrupted[some])
        for some in (slice(0, 5), slice(5, 12))
    ]
    joined = PatchSweep.joined(parts)
    for name in ("values", "clean", "corrupted"):
        assert torch.equal(getattr(joined, name), getattr(whole, name))
    assert torch.equal(joined.p_values(), whole.p_values())
    with pytest.raises(InputError, match="Sweeps with different direction cannot be joined: 'denoise' and 'noise'"):
        PatchSweep.joined([whole, made("noise")])
    with pytest.raises(InputError, match="There are no sweeps to join"):
        PatchSweep.joined([])


def test_it_prints_what_it_is() -> None:
    sweep = made()
    gap = float((sweep.clean - sweep.corrupted).mean())
    assert repr(sweep) == (
        f"PatchSweep(denoise, 3 points x 2 groups x 12 samples; logit difference, logits; clean - corrupted {gap:.3f})"
    )
    assert "denoise, AtP (approximate), 3 points" in repr(replace(sweep, method="AtP"))


def test_wrong_statistics_are_refused() -> None:
    with pytest.raises(InputError, match="correction='fdr' must be 'max-t', 'holm' or 'bh' or None"):
        made().p_values(correction="fdr")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="beyond=-1 must be at least 0"):
        made().p_values(beyond=-1)
    with pytest.raises(InputError, match="at least two samples"):
        made(samples=1).p_values()
