"""What a sweep patches at a point: all of it, one head, or one neuron."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch

from mmlens.core.axes import unit_axis
from mmlens.core.errors import InputError
from mmlens.core.names import Names
from mmlens.core.unit_sets import Units, UnitsLike
from mmlens.core.units import Unit
from mmlens.hooks.nodes import Node, Selection
from mmlens.models.hooked import HookedMultimodal

#: What a sweep takes as its units: every head or neuron of each point, some units, or None for points as a whole.
SweptUnits: TypeAlias = Literal["head", "neuron"] | UnitsLike | None


@dataclass(frozen=True)
class Target:
    """What one row of a sweep patches: a point, one unit of it, or the same in several neighbouring layers.

    Attributes:
        node: the point.
        unit: number of the head or neuron; None for the whole point.
        window: the points that are patched together; the point alone by default.
    """

    node: Node
    unit: int | None = None
    window: tuple[Node, ...] = ()

    @property
    def nodes(self) -> tuple[Node, ...]:
        """The points that are patched together."""
        return self.window or (self.node,)

    @property
    def name(self) -> str:
        """The hook name, with what is special behind it: `blocks.3.attn.hook_z[h2]`, `blocks.3.hook_mlp_out[layers 1-5]`."""
        name = self.node.name
        if self.unit is not None:
            name += f"[{'h' if 'head' in self.node.axes else 'u'}{self.unit}]"
        if len(self.nodes) > 1:
            name += f"[layers {self.nodes[0].layer}-{self.nodes[-1].layer}]"
        return name

    def put(self, old: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        """`new` in the place of `old`, as far as the unit goes; both are the same rows of a point."""
        if self.unit is None:
            return new.to(old)
        axis = unit_axis(self.node.axes) - len(self.node.axes.split())
        patched = old.clone()
        patched.select(axis, self.unit).copy_(new.select(axis, self.unit))
        return patched


#: The axes that units lie along, which name all units of a point.
_AXES = ("head", "neuron")
#: A point and the units of it that are swept: their numbers, all of them, or None for the point as a whole.
Chosen: TypeAlias = tuple[Node, "Sequence[int] | Literal['each'] | None"]


def choose(model: HookedMultimodal, at: Names | Selection | None, units: SweptUnits) -> list[Chosen]:
    """Find points and their units.

    Raises:
        InputError: for points without such units, units that the model lacks, or neither `at` nor units.
    """
    if units is None:
        if at is None:
            raise InputError("Say what to patch: at=... (hook names), or units=[...] (neurons and heads).")
        return [(node, None) for node in model.graph.select(at)]
    if isinstance(units, str) and units in _AXES:
        return _every(model, at, units)
    units = Units.of(units, model, verb="A sweep over units")
    nodes = model.graph.select(list(units.by_point()) if at is None else at)
    chosen: list[Chosen] = []
    placed: set[Unit] = set()
    for node in nodes:
        own = [unit for unit in units if _lies_at(unit, node)]
        if not own:
            raise InputError(f"None of the units lies at {node.name} [{node.axes}]; leave it out of at.")
        placed |= set(own)
        chosen.append((node, [unit.index for unit in own]))
    left = [str(unit) for unit in units if unit not in placed]
    if left:
        raise InputError(
            f"The units {', '.join(left[:8])} lie at none of the points; leave at out, or add their points."
        )
    return chosen


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


def targets(chosen: Sequence[Chosen], activations: dict[str, torch.Tensor], window: int = 1) -> list[Target]:
    """Every row of a sweep, once activations have told how many heads a point has.

    Grouped heads share keys and values, so that `hook_k` and `hook_v` have fewer.

    Args:
        chosen: points and units.
        activations: of these points.
        window: how many neighbouring layers are patched together; fewer at the first and last ones.

    Raises:
        InputError: for a head that a point does not have.
    """
    found = []
    for node, units in chosen:
        near = _window(node, [other for other, _ in chosen], window)
        if units is None:
            found.append(Target(node, None, near))
            continue
        count = activations[node.name].shape[unit_axis(node.axes)]
        wanted = range(count) if isinstance(units, str) else units
        wrong = [unit for unit in wanted if unit >= count]
        if wrong:
            raise InputError(
                f"{node.name} has {count} heads (grouped heads share keys and values); there is no {wrong}."
            )
        found += [Target(node, unit, near) for unit in wanted]
    return found


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
