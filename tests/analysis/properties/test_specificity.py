"""Specificity of neurons, on scores written by hand."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from mmlens import InputError, Neuron, find_neurons
from mmlens.analysis.properties.specificity import specific_neurons, specificity
from mmlens.neurons import NeuronScores
from tests.analysis.conftest import Wrapped

Make = Callable[[list[list[float]]], NeuronScores]
WANTED = [[4.0, 3.0, -1.0], [2.0, 0.0, 1.0]]
OTHERS = [[[4.0, 0.0, 2.0], [0.0, 1.0, 3.0]], [[0.0, -5.0, 0.0], [0.0, 0.0, 1.0]]]


@pytest.fixture(scope="module")
def make(planted_neuron: Wrapped) -> Make:
    """Scores with the numbers given."""
    found = find_neurons(planted_neuron.model, planted_neuron.batch(), token="yes")
    return lambda rows: replace(found, scores=torch.tensor(rows))


@pytest.fixture(scope="module")
def wanted(make: Make) -> NeuronScores:
    return make(WANTED)


@pytest.fixture(scope="module")
def others(make: Make) -> list[NeuronScores]:
    return [make(rows) for rows in OTHERS]


def test_specificity_is_the_share_of_a_neuron_that_serves_the_word(
    wanted: NeuronScores, others: list[NeuronScores]
) -> None:
    assert specificity(wanted, others).tolist() == [[0.5, 1.0, 0.0], [1.0, 0.0, 0.25]]
    assert torch.allclose(
        specificity(wanted, others, over="mean"), torch.tensor([[2 / 3, 1.0, 0.0], [1.0, 0.0, 1 / 3]])
    )


def test_strong_neurons_that_serve_others_too_step_back(wanted: NeuronScores, others: list[NeuronScores]) -> None:
    plain = specific_neurons(wanted, others, k=3, sharpness=0.0)
    assert plain == wanted.top(3) == [Neuron(0, 0), Neuron(0, 1), Neuron(1, 0)]
    # 4 * 0.5 = 2 ties with 2 * 1: sharper, the neuron that serves another word as much falls behind
    assert specific_neurons(wanted, others, k=3, sharpness=2.0) == [Neuron(0, 1), Neuron(1, 0), Neuron(0, 0)]


def test_bad_input_is_refused(wanted: NeuronScores, others: list[NeuronScores], make: Make) -> None:
    with pytest.raises(InputError, match=r"others=\[\] must be non-empty"):
        specificity(wanted, [])
    with pytest.raises(InputError, match=r"scores are \[2, 3\] \[layer neuron\], others have \[1, 2\]"):
        specificity(wanted, [make([[1.0, 2.0]])])
    with pytest.raises(InputError, match=r"k=7 must lie in 1..6"):
        specific_neurons(wanted, others, k=7)
    with pytest.raises(InputError, match=r"sharpness=-1.0 must be at least 0"):
        specific_neurons(wanted, others, k=2, sharpness=-1.0)
