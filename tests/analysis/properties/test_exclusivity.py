"""Exclusivity, on probabilities written by hand."""

import pytest
import torch

from mmlens import InputError
from mmlens.analysis.properties.exclusivity import exclusivity


def test_exclusive_neurons_are_among_no_other_concepts() -> None:
    # three concepts of two neurons each, out of four; each concept has two pictures
    crucial = torch.tensor([[1.0, 1.0, 0.0, 0.0], [0.0, 0.5, 1.0, 0.5], [0.0, 0.0, 0.5, 1.0]])
    found = exclusivity(["a", "b", "c"], crucial, torch.tensor([[0, 1], [1, 2], [3, 2]]), kappas=(0.2, 0.3))
    assert found.exclusive.tolist() == [0.5, 0.0, 0.5]
    # others' mean probabilities: a: 0, 0.25; b: 0.5, 0.25; c: 0.25 (neuron 3), 0.5 (neuron 2)
    assert found.below.tolist() == [[0.5, 1.0], [0.0, 0.5], [0.0, 0.5]]
    assert list(found.to_frame().columns) == ["concept", "exclusive", "below 0.2", "below 0.3"]


def test_one_concept_cannot_be_compared() -> None:
    with pytest.raises(InputError, match="at least two concepts"):
        exclusivity(["a"], torch.ones(1, 3), torch.tensor([[0]]))
