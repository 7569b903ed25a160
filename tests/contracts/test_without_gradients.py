"""Contract: what needs gradients has them where the caller has switched them off, as notebooks do in their first cell."""

from collections.abc import Callable

import pytest
import torch

from mmlens.analysis import metrics
from mmlens.analysis.attribution.attribute import attribute
from mmlens.analysis.circuits.find import find_circuit
from mmlens.analysis.neurons.find import find_neurons
from mmlens.core.errors import InputError
from mmlens.interventions.corruptions import swap
from mmlens.interventions.edits import Through, remove_word, replace_token
from tests.analysis.conftest import Wrapped, planted_neuron

__all__ = ["planted_neuron"]  # the fixture
QUICK = Through(n_steps=3)
METRIC = metrics.logit_difference("yes", "no")


def _attribution(own: Wrapped, method: str) -> torch.Tensor:
    pair = own.batch(), swap(own.model, own.batch(), [own.planted.image(False)])
    at = "blocks.*.hook_resid_pre"
    return attribute(own.model, *pair, at=at, metric=METRIC, method=method, progress=False).values  # type: ignore[arg-type]


def _circuit(own: Wrapped) -> torch.Tensor:
    pair = own.batch(), swap(own.model, own.batch(), [own.planted.image(False)])
    return find_circuit(own.model, pair, metric=METRIC, progress=False).scores


def _neurons(own: Wrapped, method: str) -> torch.Tensor:
    return find_neurons(own.model, own.batch(), token="yes", method=method, progress=False).scores  # type: ignore[arg-type]


def _replaced(own: Wrapped) -> torch.Tensor:
    neurons = find_neurons(own.model, own.batch(), token="yes", progress=False).top(2)
    about = {"source": "yes", "target": "blue", "neurons": neurons, "method": QUICK}
    return replace_token(own.model, own.batch(), **about, progress=False).deltas  # type: ignore[arg-type]


def _removed(own: Wrapped) -> torch.Tensor:
    neurons = find_neurons(own.model, own.batch(), token="yes", progress=False).top(2)
    return remove_word(own.model, own.batch(), word="yes", neurons=neurons, method=QUICK, progress=False).deltas


CASES: dict[str, Callable[[Wrapped], torch.Tensor]] = {
    "attribution patching": lambda own: _attribution(own, "atp"),
    "integrated gradients": lambda own: _attribution(own, "ig"),
    "a circuit": _circuit,
    "neurons by gradient": lambda own: _neurons(own, "gradient_x_activation"),
    "neurons by integrated gradient": lambda own: _neurons(own, "integrated_gradients"),
    "a replaced word": _replaced,
    "a removed word": _removed,
}


@pytest.mark.parametrize("case", CASES)
def test_gradients_are_on_where_they_are_needed(planted_neuron: Wrapped, case: str) -> None:
    expected = CASES[case](planted_neuron)
    assert expected.any()
    with torch.no_grad():
        found = CASES[case](planted_neuron)
        assert not torch.is_grad_enabled()
    torch.testing.assert_close(found, expected)
    assert not found.requires_grad


@pytest.mark.parametrize("case", CASES)
def test_inference_mode_is_refused_with_the_reason(planted_neuron: Wrapped, case: str) -> None:
    with (
        torch.inference_mode(),
        pytest.raises(
            InputError,
            match=r" needs gradients, and nothing made under torch\.inference_mode\(\) can have any; use torch\.",
        ),
    ):
        CASES[case](planted_neuron)
