"""Contract of units: every head and neuron of every family has a name that is read back, is counted, and is the one that acts."""

from collections.abc import Iterator

import pytest
import torch

from mmlens.core.axes import unit_axis
from mmlens.core.errors import InputError
from mmlens.core.unit_sets import Units
from mmlens.core.units import Head, Neuron, Unit
from mmlens.interventions.ablation import Ablate
from mmlens.interventions.edits import Edit, zero_neurons
from mmlens.models.hooked import HookedMultimodal
from tests.contracts.test_families import batch_of
from tests.families import FAMILIES
from tests.families.encoder_decoder import florence2
from tests.tiny import TINY, Tiny

_MADE: dict[str, HookedMultimodal] = {}


@pytest.fixture(params=[*TINY, *FAMILIES], ids=lambda tiny: tiny.name)
def tiny(request: pytest.FixtureRequest) -> Tiny:
    """Each family in turn."""
    return request.param


@pytest.fixture
def model(tiny: Tiny) -> Iterator[HookedMultimodal]:
    """Its model, made once; fails the test that leaves a hook behind."""
    if tiny.name not in _MADE:
        _MADE[tiny.name] = tiny.make()
    yield _MADE[tiny.name]
    assert not any(point.attached for point in _MADE[tiny.name].hook_dict.values())


def first_units(model: HookedMultimodal) -> list[Unit]:
    """The first unit of every point that holds some."""
    counts = model.graph.unit_counts
    return [(Head if name.endswith(".hook_z") else Neuron).at(name, 0) for name in counts]


def test_every_unit_is_named_and_every_point_of_units_is_counted(tiny: Tiny, model: HookedMultimodal) -> None:
    points = [node.name for node in model.graph if node.name.endswith((".hook_z", ".hook_post"))]
    assert list(model.graph.unit_counts) == points
    for unit, count in zip(first_units(model), model.graph.unit_counts.values(), strict=True):
        for index in (0, count - 1):
            own = type(unit)(unit.layer, index, unit.part, unit.stack, unit.branch)
            assert Unit.parse(str(own)) == own
            assert Units.of(str(own), model) == {own}
            assert own.hook in model.graph
            assert model.graph[own.hook].part == own.part
    assert len(set(map(str, first_units(model)))) == len(points)


@torch.no_grad()
def test_counts_are_those_of_a_run(tiny: Tiny, model: HookedMultimodal) -> None:
    counts = model.graph.unit_counts
    _, cache = model.run_with_cache(batch_of(tiny, model), names=list(counts))
    assert {name: cache[name].shape[unit_axis(model.graph[name].axes)] for name in counts} == counts


@torch.no_grad()
def test_a_row_that_is_zeroed_is_the_neuron_that_is_ablated(tiny: Tiny, model: HookedMultimodal, tmp_path) -> None:  # type: ignore[no-untyped-def]
    """In every stack and branch; the edit comes back from its file as the same rows."""
    batch = batch_of(tiny, model)
    clean = model(batch)
    kinds: dict[tuple[str, str, str], Unit] = {}
    for unit in first_units(model):
        if isinstance(unit, Neuron) and model.graph[unit.hook].dead is None:
            kinds.setdefault((unit.part, unit.stack, unit.branch), unit)
    for unit in kinds.values():
        loudest = Neuron(unit.layer, loud(model, batch, unit), unit.part, unit.stack, unit.branch)
        edit = zero_neurons(model, str(loudest))
        loaded = Edit.load(edit.save(tmp_path / "edit.safetensors"))
        assert loaded == edit
        assert list(loaded.rows) == [loudest]
        with model.intervene(Ablate(loudest)):
            expected = model(batch)
        with model.edited(loaded):
            torch.testing.assert_close(model(batch), expected, atol=1e-4, rtol=1e-4)
        assert (expected - clean).abs().max() > 1e-3, f"{loudest} does nothing"
        assert torch.equal(model(batch), clean)


@torch.no_grad()
def test_the_encoder_s_neurons_are_those_of_its_own_matrix() -> None:
    """Florence-2: an edit of the encoder changes the encoder's second linear, and the decoder's stays as it is."""
    model = florence2()
    language = model.hf_model.model.language_model
    encoder, decoder = (stack.layers[0].fc2.weight.clone() for stack in (language.encoder, language.decoder))
    batch = batch_of(next(tiny for tiny in FAMILIES if tiny.name == "florence2"), model)
    neuron = Neuron(0, 3, stack="encoder.blocks")
    with model.intervene(Ablate([neuron])):
        expected = model(batch)
    with model.edited(zero_neurons(model, [neuron])):
        torch.testing.assert_close(model(batch), expected, atol=1e-5, rtol=1e-5)
        assert not language.encoder.layers[0].fc2.weight[:, 3].any()
        assert torch.equal(language.decoder.layers[0].fc2.weight, decoder)
    assert torch.equal(language.encoder.layers[0].fc2.weight, encoder)
    with pytest.raises(InputError, match=r"The model has no nope\.L0\.u3"):
        zero_neurons(model, Neuron(0, 3, stack="nope"))


def loud(model: HookedMultimodal, batch: object, unit: Unit) -> int:
    """The neuron of a unit's point that is most active."""
    _, cache = model.run_with_cache(batch, names=[unit.hook])  # type: ignore[arg-type]
    return int(cache[unit.hook].abs().flatten(0, -2).sum(0).argmax())
