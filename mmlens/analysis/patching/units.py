"""What a sweep patches: points, single heads and neurons of them, or several of these together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

import torch

from mmlens.core.axes import UNIT_AXES, unit_axis
from mmlens.core.errors import InputError
from mmlens.core.names import Names
from mmlens.core.unit_sets import Units, UnitsLike
from mmlens.core.units import Feature, Head, Neuron, Unit
from mmlens.hooks.nodes import Node, Selection
from mmlens.models.hooked import HookedMultimodal

#: How a unit of each axis is written.
_LETTERS = {"head": "h", "neuron": "u", "feature": "f"}
#: What a sweep takes as its units: every head or neuron of each point, some units, or None for points as a whole.
SweptUnits: TypeAlias = Literal["head", "neuron", "feature"] | UnitsLike | None


@dataclass(frozen=True)
class Target:
    """What one row of a sweep patches: a point, some units of it, the same in neighbouring layers, or several of these at once.

    Attributes:
        node: the point.
        indices: numbers of the heads or neurons; None for the whole point.
        window: the points that are patched together; the point alone by default.
        beside: what else is patched together with it.
        units: the units that it patches whole; none where a point is, or where grouped heads share what is patched.
    """

    node: Node
    indices: tuple[int, ...] | None = None
    window: tuple[Node, ...] = ()
    beside: "tuple[Target, ...]" = ()
    units: Units = field(default_factory=Units)

    @property
    def nodes(self) -> tuple[Node, ...]:
        """The points of a window, which are patched together."""
        return self.window or (self.node,)

    @property
    def together(self) -> "tuple[Target, ...]":
        """It, and what is patched together with it."""
        return (self, *self.beside)

    @property
    def name(self) -> str:
        """The hook name, with what is special behind it: `blocks.3.attn.hook_z[h2]`, `blocks.3.hook_mlp_out[layers 1-5]`.

        Of several units at once it is their names: `L2.u7 + L3.u1`, or the first of them and their number.
        """
        if len(self.units) > 1 and len(self.nodes) == 1:
            return " + ".join(map(str, self.units[:4])) + (
                f" + ... ({len(self.units)} units)" if len(self.units) > 4 else ""
            )
        name = self.node.name
        if self.indices is not None:
            letter = next(letter for axis, letter in _LETTERS.items() if axis in self.node.axes.split())
            name += f"[{', '.join(f'{letter}{index}' for index in self.indices)}]"
        if len(self.nodes) > 1:
            name += f"[layers {self.nodes[0].layer}-{self.nodes[-1].layer}]"
        return name

    def put(self, old: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        """`new` in the place of `old`, as far as the units go; both are the same rows of a point."""
        if self.indices is None:
            return new.to(old)
        axis = unit_axis(self.node.axes) - len(self.node.axes.split())
        indices = torch.tensor(self.indices, device=old.device)
        return old.index_copy(axis, indices, new.to(old).index_select(axis, indices))


#: A point and the units of it that are swept: their numbers, all of them, or None for the point as a whole.
Chosen: TypeAlias = tuple[Node, "Sequence[int] | Literal['each'] | None"]


def select_points(model: HookedMultimodal, at: Names | Selection | None, units: SweptUnits) -> list[Chosen]:
    """Find points and their units.

    Raises:
        InputError: for points without such units, units that the model lacks, or neither `at` nor units.
    """
    if units is None:
        if at is None:
            raise InputError("Say what to patch: at=... (hook names), or units=[...] (neurons and heads).")
        return [(node, None) for node in model.graph.select(at)]
    if isinstance(units, str) and units in UNIT_AXES:
        return _every(model, at, units)
    units = Units.of(units, model, verb="A sweep over units")
    nodes = model.graph.select(list(units.by_point()) if at is None else at)
    selection: list[Chosen] = []
    units_at_points: set[Unit] = set()
    for node in nodes:
        node_units = [unit for unit in units if _lies_at(unit, node)]
        if not node_units:
            raise InputError(f"None of the units lies at {node.name} [{node.axes}]; leave it out of at.")
        units_at_points |= set(node_units)
        selection.append((node, [unit.index for unit in node_units]))
    unplaced_names = [str(unit) for unit in units if unit not in units_at_points]
    if unplaced_names:
        raise InputError(
            f"The units {', '.join(unplaced_names[:8])} lie at none of the points; leave at out, or add their points."
        )
    return selection


def _every(model: HookedMultimodal, at: Names | Selection | None, units: str) -> list[Chosen]:
    if at is None:
        raise InputError(f"units={units!r} needs the points whose {units}s are meant: at=...")
    nodes = model.graph.select(at)
    wrong = [node.name for node in nodes if units not in node.axes.split()]
    if wrong:
        raise InputError(f"{', '.join(wrong[:3])} have no axis of {units}s; name points that have one.")
    return [(node, "each") for node in nodes]


def _lies_at(unit: Unit, node: Node) -> bool:
    """Whether a point holds one value per head (or neuron) of the attention (or MLP) that the unit belongs to."""
    return unit.axis in node.axes.split() and node.name.rpartition(".")[0] == unit.hook.rpartition(".")[0]


def targets(
    model: HookedMultimodal,
    selection: Sequence[Chosen],
    activations: Mapping[str, torch.Tensor],
    *,
    window: int = 1,
    joint: bool = False,
) -> list[Target]:
    """Every row of a sweep, once activations have told how many heads a point has.

    Grouped heads share keys and values, so that `hook_k` and `hook_v` have fewer.

    Args:
        model: the hooked model.
        selection: points and units.
        activations: of these points.
        window: how many neighbouring layers are patched together; fewer at the first and last ones.
        joint: whether all units are one row.

    Raises:
        InputError: for a head that a point does not have.
    """
    result = []
    for node, units in selection:
        near = _window(node, [other for other, _ in selection], window)
        if units is None:
            result.append(Target(node, None, near))
            continue
        count = activations[node.name].shape[unit_axis(node.axes)]
        indices = range(count) if isinstance(units, str) else units
        wrong = [index for index in indices if index >= count]
        if wrong:
            raise InputError(
                f"{node.name} has {count} heads (grouped heads share keys and values); there is no {wrong}."
            )
        for members in [tuple(indices)] if joint else [(index,) for index in indices]:
            result.append(Target(node, members, near, units=_units(model, near, members, count)))
    if not joint:
        return result
    every = Units(unit for target in result for unit in target.units)
    return [replace(result[0], beside=tuple(result[1:]), units=every)]


def _units(model: HookedMultimodal, nodes: Sequence[Node], indices: Sequence[int], count: int) -> Units:
    """The units at some indices of points; none where a point has another number of them than its branch."""
    kind = next(kind for kind in (Head, Neuron, Feature) if kind.axis in nodes[0].axes.split())
    units = [kind.at(node.name, index) for node in nodes for index in indices]
    return Units(unit for unit in units if model.graph.unit_counts.get(unit.hook) == count)


def layers_around(layer: int, window: int) -> range:
    """The `window` layers around one, itself among them; an even window reaches one further down than up.

    Example:
        >>> list(layers_around(4, 3)), list(layers_around(4, 4))
        ([3, 4, 5], [2, 3, 4, 5])
    """
    return range(layer - window // 2, layer + (window - 1) // 2 + 1)


def _window(node: Node, nodes: Sequence[Node], window: int) -> tuple[Node, ...]:
    """The chosen points of a point's kind in the layers around it."""
    if window == 1 or node.layer is None:
        return (node,)
    layers = layers_around(node.layer, window)
    alike = [other for other in nodes if (other.part, other.stack, other.kind) == (node.part, node.stack, node.kind)]
    return tuple(other for other in alike if other.layer in layers)
