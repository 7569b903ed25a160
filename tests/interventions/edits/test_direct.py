"""Deltas in closed form: how the smallest change that suffices is looked for, and what is told of it."""

import pytest
import torch

from mmlens.core.errors import InputError
from mmlens.core.units import Neuron
from mmlens.interventions.edits import Direct, replace_token
from mmlens.interventions.edits.methods.direct import _smallest
from tests.conftest import Subject
from tests.interventions.edits.test_through import tokens_of


@pytest.mark.parametrize("threshold", [0.3, 1.0, 5.7, 2.0**-10, 0.0007, 700.0])
def test_the_smallest_that_suffices(threshold: float) -> None:
    calls: list[float] = []

    def suffices(strength: float) -> bool:
        calls.append(strength)
        return strength >= threshold

    strength = _smallest(suffices)
    assert threshold <= strength <= threshold * (1 + 2**-6)
    first = max(int(torch.ceil(torch.log2(torch.tensor(threshold * 2**10)))), 0)
    # doublings from 2**-10 up, and six halvings
    assert calls[: first + 1] == [2.0 ** (n - 10) for n in range(first + 1)]
    assert len(calls) == first + 1 + 6
    low = calls[first] / 2
    assert calls[first + 1] == (low + calls[first]) / 2


def test_where_nothing_suffices_the_largest_is_told() -> None:
    calls: list[float] = []
    assert _smallest(lambda strength: bool(calls.append(strength))) == 2.0**20
    assert len(calls) == 30


def test_what_is_told_of_the_strength(llava: Subject) -> None:
    """Deltas of l2sq are pulls over 2 beta; those of l2 grow with their reach, beyond what beta holds."""
    source, target = tokens_of(llava, 2)

    def made(settings: Direct) -> tuple[torch.Tensor, dict[str, object]]:
        edit = replace_token(
            *(llava.model, llava.batches["left"]),
            source=source,
            target=target,
            neurons=[Neuron(1, 3), Neuron(2, 5)],
            method=settings,
            max_new_tokens=2,
            progress=False,
        )
        return edit.deltas, dict(edit.provenance.settings)

    one, told = made(Direct(beta=2.0))
    assert told["beta"] == pytest.approx(2.0)
    half, told = made(Direct(beta=4.0))
    assert told["beta"] == pytest.approx(4.0)
    torch.testing.assert_close(half, one / 2)
    pull = 4 * one.norm(dim=1)
    far, told = made(Direct("l2", reach=3.0))
    assert told["reach"] == pytest.approx(3.0)
    torch.testing.assert_close(far.norm(dim=1), 3 * pull)
    held, _ = made(Direct("l2", reach=3.0, beta=float(pull.mean())))
    torch.testing.assert_close(held.norm(dim=1), 3 * (pull - pull.mean()).clamp(min=0))
    with pytest.raises(InputError, match="holds every row where it is"):
        made(Direct("l2", beta=float(pull.max()) * 1.01))
    # a share of the places, not all of them
    _, told = made(Direct(beta=1e9))
    assert told["reached"] is False


def test_penalties_whose_minimum_is_infinitely_far_or_needs_no_reach_are_refused() -> None:
    with pytest.raises(InputError, match="beta=0 must be above 0 for penalty='l2sq'"):
        Direct(beta=0)
    Direct("l2", beta=0)
    with pytest.raises(InputError, match="reach has no meaning for penalty='l2sq'"):
        Direct(reach=1.0)
    Direct("l2", reach=1.0)
