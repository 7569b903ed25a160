"""Maps of several sets of neurons at once, and of magnitudes, against the cached activations."""

import pytest
import torch

from mmlens.analysis.neurons.maps import activation_map, activation_maps
from mmlens.core.errors import InputError
from mmlens.core.units import Neuron
from tests.conftest import Subject

SETS = {"two": [Neuron(0, 3), Neuron(2, 7)], "one": [Neuron(2, 7)]}


@pytest.mark.parametrize("shown", ["activation", "magnitude"])
def test_maps_are_means_of_the_cached_activations(llava: Subject, shown: str) -> None:
    batch = llava.batches["left"]
    maps = activation_maps(llava.model, batch, SETS, shown=shown, sample=1)  # type: ignore[arg-type]
    _, cache = llava.model.run_with_cache(batch, names="blocks.*.mlp.hook_post")
    rows = batch.layout.grid(sample=1).rows
    first = cache["blocks.0.mlp.hook_post"][1, rows, 3].reshape(4, 4)
    second = cache["blocks.2.mlp.hook_post"][1, rows, 7].reshape(4, 4)
    if shown == "magnitude":
        first, second = first.abs(), second.abs()
    else:
        assert (first * second < 0).any()  # else the two would show the same
    torch.testing.assert_close(maps["two"].values, (first + second) / 2)
    torch.testing.assert_close(maps["one"].values, second)
    alone = activation_map(llava.model, batch, SETS["one"], shown=shown, sample=1)  # type: ignore[arg-type]
    assert torch.equal(alone.values, maps["one"].values)


def test_an_empty_set_is_refused_by_name(llava: Subject) -> None:
    with pytest.raises(InputError, match="The map 'none' was given no neurons"):
        activation_maps(llava.model, llava.batches["left"], {**SETS, "none": []})
