"""Ordered sets of units: made of what verbs take, combined, and checked against a model in one place."""

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from typing import Annotated, Any, Protocol, TypeAlias, overload

from mmlens.core.contract import checked
from mmlens.core.errors import InputError
from mmlens.core.kinds import Accepts, With
from mmlens.core.names import part_prefix
from mmlens.core.units import EXAMPLES, Feature, Head, Neuron, Unit

_LISTED = 8

#: What every verb takes where units are meant: one, several, or their names.
UnitsLike: TypeAlias = Annotated[
    Unit | str | Iterable[Unit | str], Accepts(object), With(lambda arguments, units, name: _readable(units))
]


def _readable(units: Any) -> Any:
    """Units that can be read as such; what can be read only once is."""
    parsed = Units(units)
    return units if isinstance(units, str | Unit | Sequence) else parsed


class UnitCounts(Protocol):
    """What knows the units of a model: its graph."""

    @property
    def names(self) -> Sequence[str]:
        """All hook names."""

    @property
    def unit_counts(self) -> Mapping[str, int]:
        """How many units each point that holds some has, by hook name."""


class HasUnits(Protocol):
    """A model whose graph knows its units."""

    @property
    def graph(self) -> UnitCounts:
        """Its graph."""


class Units(Sequence[Unit], Set[Unit]):
    """An ordered set of units: a value that can be combined (`|`, `&`, `-`, `^`), sliced, printed and searched.

    The order is that in which units came (of `.top(k)` best first); `sorted(units)` goes by place. Sets are equal if they hold
    the same units; a list equals one if its units come in that order too.

    Args:
        units: units or their names, one or several; repeated ones count once.

    Raises:
        InputError: for what is no unit.

    Example:
        >>> units = Units(["L2.u7", "L1.h3"]) | Neuron(3, 1)
        >>> units, units[1:], "L2.u7" in units, units.heads
        (Units(L2.u7, L1.h3, L3.u1), Units(L1.h3, L3.u1), True, Units(L1.h3))
    """

    __slots__ = ("_set", "_units")
    _units: tuple[Unit, ...]
    _set: frozenset[Unit]

    def __init__(self, units: UnitsLike = ()):
        if isinstance(units, Units):
            self._units, self._set = units._units, units._set
        else:
            self._units = tuple(dict.fromkeys(as_units(units)))
            self._set = frozenset(self._units)

    @classmethod
    def of(
        cls, units: UnitsLike, model: HasUnits, *, kind: type[Unit] = Unit, verb: str = "", empty: bool = False
    ) -> "Units":
        """Units that a model has.

        Args:
            units: one, several, or their names.
            model: a hooked model.
            kind: the only kind that is taken.
            verb: who asks, for messages.
            empty: whether there may be none.

        Raises:
            InputError: for what is no unit, of another kind, or not in the model (all of them are named, with what there is); for
                none, unless there may be none.
        """
        units_of_model = cls(units)
        noun = f"{kind.kind or 'unit'}s"
        if not units_of_model and not empty:
            raise InputError(f"{verb or 'This'} was given no {noun}; name some: {EXAMPLES}.")
        others = [unit for unit in units_of_model if not isinstance(unit, kind)]
        if others:
            raise InputError(
                f"{verb or 'This'} takes {noun}, and {_names(others)} {'are' if len(others) > 1 else 'is'} of another kind "
                f"({', '.join(sorted({unit.kind for unit in others}))})."
            )
        counts = model.graph.unit_counts
        missing = [unit for unit in units_of_model if unit.index >= counts.get(unit.hook, 0)]
        if missing:
            raise InputError(
                f"The model has no {_names(missing)}; it has {_ranges(missing, counts)}.{_other_blocks(missing, model.graph)}"
            )
        return units_of_model

    @overload
    def __getitem__(self, number: int) -> Unit: ...

    @overload
    def __getitem__(self, number: slice) -> "Units": ...

    def __getitem__(self, number: int | slice) -> "Unit | Units":
        return Units(self._units[number]) if isinstance(number, slice) else self._units[number]

    def __len__(self) -> int:
        return len(self._units)

    def __contains__(self, unit: object) -> bool:
        return (Unit.parse(unit) if isinstance(unit, str) else unit) in self._set

    def __eq__(self, other: object) -> bool:
        if isinstance(other, list):
            return list(self._units) == other
        return self._set == other if isinstance(other, Set) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._set)

    def __or__(self, other: object) -> "Units":
        return Units([*self, *as_units(other)])

    def __and__(self, other: object) -> "Units":
        common = self._set.intersection(as_units(other))
        return Units(unit for unit in self if unit in common)

    def __sub__(self, other: object) -> "Units":
        rest = self._set.difference(as_units(other))
        return Units(unit for unit in self if unit in rest)

    def __xor__(self, other: object) -> "Units":
        return (self - other) | (Units(as_units(other)) - self)

    def __ror__(self, other: object) -> "Units":
        return Units(as_units(other)) | self

    def __rand__(self, other: object) -> "Units":
        return Units(as_units(other)) & self

    def __rsub__(self, other: object) -> "Units":
        return Units(as_units(other)) - self

    def __rxor__(self, other: object) -> "Units":
        return Units(as_units(other)) ^ self

    def __repr__(self) -> str:
        return f"Units({_names(self)})"

    @checked
    def only(self, kind: type[Unit]) -> "Units":
        """Those of one kind."""
        return Units(unit for unit in self if isinstance(unit, kind))

    @property
    def neurons(self) -> "Units":
        """The neurons among them."""
        return self.only(Neuron)

    @property
    def heads(self) -> "Units":
        """The heads among them."""
        return self.only(Head)

    @property
    def features(self) -> "Units":
        """The features of sparse dictionaries among them."""
        return self.only(Feature)

    def by_layer(self) -> dict[str, "Units"]:
        """Units by the block that holds them, blocks in order: `{"vision.L0": ..., "L2": ..., "L3": ...}`."""
        return self._by_name(sorted(self), lambda unit: unit.block)

    def by_point(self) -> dict[str, "Units"]:
        """Units by the name of the hook point that holds them, in the order in which they come."""
        return self._by_name(self, lambda unit: unit.hook)

    @staticmethod
    def _by_name(units: Iterable[Unit], name: Callable[[Unit], str]) -> dict[str, "Units"]:
        groups: dict[str, list[Unit]] = {}
        for unit in units:
            groups.setdefault(name(unit), []).append(unit)
        return {key: Units(members) for key, members in groups.items()}


def as_units(units: object) -> list[Unit]:
    """Units or their names, one or several, as a list with repetitions.

    Raises:
        InputError: for what is no unit.
    """
    if isinstance(units, Units):
        return list(units)
    if isinstance(units, Unit):
        return [units]
    if isinstance(units, str):
        return [Unit.parse(units)]
    if not isinstance(units, Iterable):
        raise InputError(f"{units!r} is no unit; write {EXAMPLES}, or several of these.")
    result: list[Unit] = []
    for unit in units:
        if not isinstance(unit, Unit | str):
            raise InputError(f"{unit!r} is no unit; write {EXAMPLES}.")
        result.append(unit if isinstance(unit, Unit) else Unit.parse(unit))
    return result


def _names(units: Sequence[Unit]) -> str:
    """The first of some units, and how many there are if that is more."""
    more = f", ... {len(units)} in all" if len(units) > _LISTED else ""
    return ", ".join(map(str, units[:_LISTED])) + more


def _ranges(missing: Iterable[Unit], counts: Mapping[str, int]) -> str:
    """What a model has of the kinds and parts of units that it lacks: `L0.u0 to L5.u255; vision.L0.u0 to vision.L3.u127`."""
    kinds = {type(unit) for unit in missing}
    there = [
        (kind.at(hook, count - 1)) for kind in kinds for hook, count in counts.items() if hook.endswith(kind.point)
    ]
    near = [unit for unit in there if unit.part in {other.part for other in missing}] or there
    groups: dict[tuple[str, str, str, str], list[Unit]] = {}
    for last in sorted(near):
        groups.setdefault((last.part, last.stack, last.kind, last.branch), []).append(last)
    return "; ".join(map(_range, groups.values())) or f"no {' or '.join(sorted(kind.kind for kind in kinds))}s"


def _range(lasts: Sequence[Unit]) -> str:
    """The units of the layers whose last ones are given."""
    first = type(lasts[0])(lasts[0].layer, 0, lasts[0].part, lasts[0].stack, lasts[0].branch)
    layers, sizes = [unit.layer for unit in lasts], sorted({unit.index + 1 for unit in lasts})
    gaps = len(layers) <= layers[-1] - layers[0]
    notes = [f"layers {', '.join(map(str, layers))} alone"] if gaps else []
    notes += [f"{sizes[0]} to {sizes[-1]} a layer"] if len(sizes) > 1 else []
    return f"{first} to {lasts[-1]}" + (f" ({'; '.join(notes)})" if notes else "")


def _other_blocks(missing: Iterable[Unit], graph: UnitCounts) -> str:
    """Why blocks that are there have none of the units that a model lacks."""
    if any(isinstance(unit, Feature) for unit in missing):
        return " Features are there while their dictionary is attached: with model.attach(sae): ..."
    bare = [unit for unit in missing if unit.stack and unit.hook not in graph.unit_counts]
    blocks = {unit.block: f"{part_prefix(unit.part)}{unit.stack}.{unit.layer}." for unit in bare}
    there = [block for block, prefix in blocks.items() if any(name.startswith(prefix) for name in graph.names)]
    if not there:
        return ""
    return f" Of {', '.join(there[:_LISTED])} no module holds such units: a mixture of experts, or another mixer."
