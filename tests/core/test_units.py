"""Units as values: what they print is what is read, sets of them combine, and one place checks them against a model."""

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmlens.core.errors import InputError
from mmlens.core.unit_sets import Units, as_units
from mmlens.core.units import Feature, Head, Neuron, Unit
from tests.conftest import Subject

STACKS = st.sampled_from(["blocks", "encoder.blocks", "global_blocks", "stages.2.blocks", "deepstack"])
PARTS = st.sampled_from(["vision", "projector", "language"])
INDICES = st.integers(0, 10**6)
NEURONS = st.builds(
    Neuron, INDICES, INDICES, PARTS, STACKS, st.sampled_from(["mlp", "mlp_text", "mlp.shared", "lookup"])
)
HEADS = st.builds(Head, INDICES, INDICES, PARTS, STACKS, st.sampled_from(["attn", "cross_attn"]))
OUTSIDE = st.builds(lambda kind, index: kind(0, index, "projector", ""), st.sampled_from([Neuron, Head]), INDICES)
UNIT = st.one_of(NEURONS, HEADS, OUTSIDE)


@given(UNIT)
@settings(max_examples=300, deadline=None)
def test_what_a_unit_prints_is_parsed_back(unit: Unit) -> None:
    assert Unit.parse(str(unit)) == unit
    assert type(unit).at(unit.hook, unit.index) == unit
    assert hash(Unit.parse(str(unit))) == hash(unit)


@pytest.mark.parametrize(
    ("unit", "name", "hook"),
    [
        (Neuron(2, 7), "L2.u7", "blocks.2.mlp.hook_post"),
        (Head(0, 3, "vision"), "vision.L0.h3", "vision.blocks.0.attn.hook_z"),
        (Neuron(3, 1, stack="encoder.blocks"), "encoder.blocks.L3.u1", "encoder.blocks.3.mlp.hook_post"),
        (Neuron(0, 5, "projector", ""), "projector.u5", "projector.mlp.hook_post"),
        (Head(0, 2, "projector", "", "cross_attn"), "projector.x2", "projector.cross_attn.hook_z"),
        (Head(1, 2, branch="cross_attn"), "L1.x2", "blocks.1.cross_attn.hook_z"),
        (
            Head(1, 0, "vision", "stages.2.blocks"),
            "vision.stages.2.blocks.L1.h0",
            "vision.stages.2.blocks.1.attn.hook_z",
        ),
        (Neuron(4, 9, branch="mlp.shared"), "L4.mlp.shared.u9", "blocks.4.mlp.shared.hook_post"),
        (Neuron(1, 9, "projector", "deepstack"), "projector.deepstack.L1.u9", "projector.deepstack.1.mlp.hook_post"),
    ],
)
def test_names_and_hooks_of_units(unit: Unit, name: str, hook: str) -> None:
    assert (str(unit), unit.hook) == (name, hook)
    assert repr(unit) == f"{type(unit).__name__}({name})"
    assert Unit.parse(name) == unit


@pytest.mark.parametrize(
    "name", ["", "L2", "u7", "L2.u", "L2.7", "l2.u7", "L2.u-1", "L2.z7", "other.L2.u", "L2.u7 ", 7]
)
def test_what_names_no_unit_is_refused(name: str) -> None:
    if name == "u7":  # a name, though no language model has neurons outside of blocks
        assert Unit.parse(name) == Neuron(0, 7, stack="")
        return
    with pytest.raises(InputError, match=r"names no unit; names read \[part\.\]\[stack\.\]L<layer>"):
        Unit.parse(name)


@pytest.mark.parametrize("kind", [Neuron, Head])
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ((0, -1), "index of a (neuron|head) counts from 0, found -1"),
        ((-2, 1), "layer of a (neuron|head) counts from 0, found -2"),
        ((True, 1), "layer of a (neuron|head) must be a whole number from 0 on, found True"),
        ((0, 1.0), "index of a (neuron|head) must be a whole number from 0 on, found 1.0"),
        ((0, "3"), "index of a (neuron|head) must be a whole number from 0 on, found '3'"),
        ((0, None), "must be a whole number from 0 on, found None"),
        ((0, 1, "text"), "part='text' is not a part of the model"),
        ((0, 1, "language", None), "stack of a (neuron|head) is a name such as 'blocks'.*found stack=None"),
        ((2, 1, "projector", ""), "whose layer is 0; found stack='', layer=2"),
    ],
)
def test_units_that_no_model_can_have_are_refused_when_they_are_made(
    kind: type[Unit], fields: tuple, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        kind(*fields)


def test_whole_numbers_of_any_type_are_taken() -> None:
    made = Neuron(np.int64(2), torch.tensor(7))  # type: ignore[arg-type]
    assert made == Neuron(2, 7)
    assert (type(made.layer), type(made.index)) == (int, int)


def test_the_base_of_units_is_no_unit() -> None:
    with pytest.raises(InputError, match="Unit is the base of all kinds"):
        Unit(0, 1)


def test_units_sort_by_place_whatever_their_kind() -> None:
    mixed = [Head(1, 0), Neuron(1, 5), Neuron(0, 9), Neuron(0, 0, "vision"), Head(0, 2), Neuron(1, 4)]
    assert list(map(str, sorted(mixed))) == ["vision.L0.u0", "L0.h2", "L0.u9", "L1.h0", "L1.u4", "L1.u5"]


def test_a_later_kind_of_unit_fits_without_a_change() -> None:
    @dataclass(frozen=True, repr=False)
    class Expert(Unit):
        """An expert of a mixture."""

        branch: str = "moe"
        kind: ClassVar[str] = "expert"
        point: ClassVar[str] = "hook_router"
        axis: ClassVar[str] = "expert"
        letters: ClassVar[dict[str, str]] = {"moe": "e"}

    try:
        expert = Expert(3, 17)
        assert str(expert) == "L3.e17"
        assert Unit.parse("L3.e17") == expert
        assert Units(["L3.e17", "L3.u17"]).only(Expert) == {expert}
    finally:
        Unit._kinds.remove(Expert)


@pytest.mark.parametrize(
    ("feature", "name", "site"),
    [
        (Feature(3, 17), "L3.f17", "blocks.3.hook_resid_post"),
        (Feature(0, 4, "vision"), "vision.L0.f4", "vision.blocks.0.hook_resid_post"),
        (Feature(2, 9, branch="mlp.hook_post"), "L2.mlp.hook_post.f9", "blocks.2.mlp.hook_post"),
        (Feature(0, 5, "projector", "", "hook_out"), "projector.hook_out.f5", "projector.hook_out"),
        (Feature(1, 0, "projector", branch="hook_mlp_out"), "projector.L1.hook_mlp_out.f0", "projector.blocks.1.hook_mlp_out"),
        (Feature(1, 2, stack="encoder.blocks"), "encoder.blocks.L1.f2", "encoder.blocks.1.hook_resid_post"),
    ],
)  # fmt: skip
def test_features_are_named_after_the_point_of_their_dictionary(feature: Feature, name: str, site: str) -> None:
    assert str(feature) == name
    assert Unit.parse(name) == feature
    assert feature.hook == f"{site}.hook_sae_acts_post"
    assert Feature.at(feature.hook, feature.index) == feature
    assert Units([name, "L3.u17"]).features == {feature}


# -- sets ------------------------------------------------------------------------------------------------------------


@given(st.lists(NEURONS | HEADS, max_size=12), st.lists(NEURONS | HEADS, max_size=12))
@settings(max_examples=100, deadline=None)
def test_sets_of_units_are_sets_in_the_order_of_their_units(a: list[Unit], b: list[Unit]) -> None:
    b = b + a[: len(a) // 2]
    left, right = Units(a), Units(b)
    for found, expected in (
        (left | right, set(a) | set(b)),
        (left & right, set(a) & set(b)),
        (left - right, set(a) - set(b)),
        (left ^ right, set(a) ^ set(b)),
    ):
        assert isinstance(found, Units)
        assert found == expected
        order = list(dict.fromkeys([*a, *b]))
        assert list(found) == sorted(found, key=order.index)
    assert (left <= right) == (set(a) <= set(b))
    assert left.isdisjoint(right) == set(a).isdisjoint(b)
    assert hash(Units(reversed(a))) == hash(left)
    assert Units(reversed(a)) == left
    assert all(unit in left for unit in a)
    assert Units(map(str, a)) == left
    assert list(left) == list(dict.fromkeys(a))


def test_a_set_of_units_is_a_sequence() -> None:
    units = Units(["L2.u7", "L1.h3", "vision.L0.u5", "L2.u7"])
    assert (len(units), units[0], units[-1]) == (3, Neuron(2, 7), Neuron(0, 5, "vision"))
    assert units[1:] == [Head(1, 3), Neuron(0, 5, "vision")]
    assert isinstance(units[:2], Units)
    assert "L1.h3" in units
    assert "L1.u3" not in units
    assert units.index(Head(1, 3)) == 1
    assert units == as_units(["L2.u7", "L1.h3", "vision.L0.u5"])
    assert units != as_units(["L1.h3", "L2.u7", "vision.L0.u5"])  # a list has an order
    assert units == {Head(1, 3), Neuron(2, 7), Neuron(0, 5, "vision")}  # a set has none
    assert units.neurons == as_units(["L2.u7", "vision.L0.u5"])
    assert units.heads == {Head(1, 3)}
    assert {block: list(map(str, some)) for block, some in units.by_layer().items()} == {
        "vision.L0": ["vision.L0.u5"],
        "L1": ["L1.h3"],
        "L2": ["L2.u7"],
    }
    assert list(units.by_layer()) == ["vision.L0", "L1", "L2"]
    assert "L2.u7" | units[1:] == units
    assert units - "L2.u7" == units[1:]


def test_sets_print_themselves_short() -> None:
    assert repr(Units("L2.u7")) == "Units(L2.u7)"
    assert repr(Units()) == "Units()"
    many = Units(Neuron(1, index) for index in range(500))
    assert repr(many) == f"Units({', '.join(f'L1.u{i}' for i in range(8))}, ... 500 in all)"


@pytest.mark.parametrize("wrong", [3, 3.5, None, [3], [(2, 7)], (2, 7), [None], {"a": 1}, [["L2.u7"]], b"L2.u7"])
def test_what_is_no_unit_is_refused(wrong: object) -> None:
    with pytest.raises(InputError, match=r"no unit"):
        Units(wrong)  # type: ignore[arg-type]


# -- against a model -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("units", "message"),
    [
        ([], r"^mm\.verb was given no units; name some: mm\.Neuron\(2, 7\)"),
        ("L3.u0", r"^The model has no L3\.u0; it has L0\.u0 to L2\.u47\.$"),
        (
            ["L0.u48", "L0.h4", "L0.u1"],
            r"^The model has no L0\.u48, L0\.h4; it has L0\.h0 to L2\.h3; L0\.u0 to L2\.u47\.$",
        ),
        ([Neuron(0, 10**9)], r"^The model has no L0\.u1000000000; it has L0\.u0 to L2\.u47\.$"),
        (Neuron(7, 0, "vision"), r"^The model has no vision\.L7\.u0; it has vision\.L0\.u0 to vision\.L2\.u39\.$"),
        (Neuron(0, 3, stack="nope"), r"^The model has no nope\.L0\.u3; it has L0\.u0 to L2\.u47\.$"),
        (Head(0, 3, stack="encoder.blocks"), r"^The model has no encoder\.blocks\.L0\.h3; it has L0\.h0 to L2\.h3\.$"),
        ("projector.L0.u3", r"^The model has no projector\.L0\.u3; it has projector\.u0 to projector\.u\d+\.$"),
        (
            "projector.h3",
            r"^The model has no projector\.h3; it has vision\.L0\.h0 to vision\.L2\.h1; L0\.h0 to L2\.h3\.$",
        ),
        ([Neuron(0, 48 + i) for i in range(20)], r"L0\.u55, \.\.\. 20 in all; it has"),
    ],
)
def test_units_are_checked_against_a_model(llava: Subject, units: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Units.of(units, llava.model, verb="mm.verb")  # type: ignore[arg-type]


def test_another_kind_of_unit_is_refused_by_name(llava: Subject) -> None:
    with pytest.raises(InputError, match=r"^zero_neurons takes neurons, and L1\.h3 is of another kind \(head\)\.$"):
        Units.of(["L2.u7", "L1.h3"], llava.model, kind=Neuron, verb="zero_neurons")
    assert Units.of((), llava.model, empty=True) == set()


def test_replacing_a_field_gives_a_unit_that_is_checked() -> None:
    assert replace(Neuron(2, 7), part="vision") == Neuron(2, 7, "vision")
    with pytest.raises(InputError, match="counts from 0"):
        replace(Neuron(2, 7), index=-1)
