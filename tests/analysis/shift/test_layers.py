"""Shifts of several layers: planted ones go beyond other concepts' shifts after correction, random moves of samples do not."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr

import mmlens as mm
from mmlens.analysis.shift.layers import LayerShifts, layer_shifts
from mmlens.analysis.shift.result import correlation_of
from mmlens.analysis.store.states import States
from mmlens.core.errors import InputError

CLUSTERS, EACH, WIDTH = 10, 24, 24


def states(planted: bool, *, layers: int = 4, seed: int = 0) -> tuple[dict[str, States], dict[str, States]]:
    """Ten clusters a layer; each moves by a vector of its own, or every sample as far in a direction of its own."""
    generator = torch.Generator().manual_seed(seed)
    base, tuned = {}, {}
    cluster = torch.arange(CLUSTERS).repeat(EACH)
    keys = tuple(f"sample{row}" for row in range(len(cluster)))
    for layer in range(layers):
        at = f"blocks.{layer}.hook_resid_post"
        values = (8 * torch.randn(CLUSTERS, WIDTH, generator=generator))[cluster]
        values = values + 0.5 * torch.randn(values.shape, generator=generator)
        vectors = 2 * torch.randn(CLUSTERS, WIDTH, generator=generator)[cluster]
        moves = vectors
        if not planted:
            random = torch.randn(values.shape, generator=generator)
            moves = random / random.norm(dim=1, keepdim=True) * vectors.norm(dim=1, keepdim=True)
        base[at] = States(values, at, keys=keys, tokens=("dog",) * len(cluster))
        tuned[at] = replace(base[at], values=values + moves)
    return base, tuned


def test_planted_shifts_go_beyond_their_control_and_random_moves_do_not() -> None:
    for held_out, planted, beyond in ((True, True, True), (True, False, False), (False, False, True)):
        found = layer_shifts(*states(planted), CLUSTERS, held_out=held_out)
        frame = found.to_frame()
        assert frame["shift"].tolist() == [f"blocks.{layer}.hook_resid_post" for layer in range(4)]
        # of the same samples, random moves are recovered too: the mean of a cluster moves by the mean of its moves
        assert ((frame["p_corrected"] < 0.05) & (frame["beyond_low"] > 0)).tolist() == [beyond] * 4, (held_out, planted)
        assert (frame["p_corrected"] >= frame["p"]).all()
        assert found.held_out == held_out
    assert repr(found).startswith("LayerShifts(4 shifts, matches of the same samples)")


def test_correlations_have_intervals_and_are_corrected() -> None:
    found = layer_shifts(*states(False), CLUSTERS)
    frame = found.correlations("magnitude", "recovery_distance").set_index("shift")
    for name, shift in found.shifts.items():
        expected = pearsonr(shift.magnitude.numpy(), shift.recovery_distance.numpy())
        row = frame.loc[name]
        assert (row["r"], row["p"]) == pytest.approx((expected.statistic, expected.pvalue))
        half = 1.959964 / np.sqrt(CLUSTERS - 3)
        assert (row["low"], row["high"]) == pytest.approx(
            tuple(np.tanh(np.arctanh(row["r"]) + np.array([-half, half])))
        )
    order = frame["p"].to_numpy()
    assert frame["p_corrected"].min() == pytest.approx(min(1.0, 4 * order.min()))
    assert (
        str(correlation_of(torch.arange(3.0), torch.tensor([1.0, 0.0, 2.0])))
        == "0.50 [no interval], p 0.67, 3 concepts"
    )


def test_a_false_correlation_at_one_of_many_layers_is_no_finding() -> None:
    """Forty layers of nothing: some have p < .05 of themselves, none after correction."""
    base, tuned = states(False, layers=40, seed=5)
    frame = layer_shifts(base, tuned, CLUSTERS).correlations("consistency", "recovery_distance")
    assert (frame["p"] < 0.05).any()
    assert not (frame["p_corrected"] < 0.05).any()


def test_what_cannot_be_compared_is_refused() -> None:
    base, tuned = states(True, layers=2)
    with pytest.raises(
        InputError, match=r"must hold states under the same names, found \['blocks.0.hook_resid_post', "
    ):
        layer_shifts(base, dict(list(tuned.items())[:1]))
    few = {name: some[list(range(12))] for name, some in base.items()}
    with pytest.raises(InputError, match="has 6 samples to measure shifts in, too few for two concepts"):
        layer_shifts(few, {name: some[list(range(12))] for name, some in tuned.items()})
    assert mm.concepts.LayerShifts is LayerShifts
