"""Interventions on single neurons and heads: ablate them, to zero or to given values."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from mmlens.core.axes import unit_axis
from mmlens.core.contract import checked
from mmlens.core.errors import InputError
from mmlens.core.rules import as_rule
from mmlens.core.unit_sets import Units, UnitsLike, as_units
from mmlens.core.units import Head, Unit
from mmlens.hooks.nodes import Node
from mmlens.hooks.session import HookFunction, HookPair
from mmlens.interventions.positioned import Finder, PositionedIntervention
from mmlens.models.hooked import HookedMultimodal

#: What a unit can be set to: a number, or for a head its whole output `[d_head]`.
UnitValue = float | torch.Tensor


@checked
@dataclass(frozen=True)
class Ablate(PositionedIntervention):
    """Set neurons or heads to a constant, by default at every position and in every step of a generation.

    Args:
        units: the neurons or heads, or their names: `"L2.u7"`, `["L2.u7", "vision.L0.h3"]`, `scores.top(20)`.
        value: what they are set to: one number for all (0 takes away what they write), or one value per unit, in their
            order: a number, or for a head a vector `[d_head]`. `mm.neurons.mean_activation` gives these for mean-ablation.
        positions: which positions (see `mm.positions`); `"all"` means every step of a generation too.

    Raises:
        InputError: for what is no unit, none, not as many values as units, or two values for one unit.

    Example:
        >>> with model.intervene(Ablate("L2.u7")):
        ...     logits = model(batch)
        >>> with model.intervene(Ablate(["L0.u3", "L1.h2"], value=[0.1, -0.2], positions="image")):
        ...     logits = model(batch)
    """

    units: UnitsLike
    value: float | Sequence[UnitValue] | torch.Tensor = field(default=0.0, repr=False)

    def __post_init__(self) -> None:
        unit_list = as_units(self.units)
        units = Units(unit_list)
        if not units:
            raise InputError("Ablate was given no neurons or heads.")
        object.__setattr__(self, "units", units)
        if not isinstance(self.value, int | float):
            object.__setattr__(self, "value", _one_each(unit_list, self.value))

    def hooks(self, model: HookedMultimodal) -> list[HookPair]:
        """One hook per point that holds some of the units.

        Raises:
            InputError: if the model lacks a unit (all that are missing are listed), or a value does not fit one.
        """
        as_rule(self.positions)
        units = Units.of(self.units, model, verb="Ablate")
        values = dict(zip(units, self._values(units, model), strict=True))
        return [
            (
                name,
                _setter(
                    model.graph[name].axes, [(u.index, values[u]) for u in here], self.finder(model, model.graph[name])
                ),
            )
            for name, here in units.by_point().items()
        ]

    def points(self, model: HookedMultimodal) -> list[Node]:
        """The points that hold the units."""
        return [model.graph[name] for name in Units(self.units).by_point()]

    def _values(self, units: Units, model: HookedMultimodal) -> list[torch.Tensor]:
        if isinstance(self.value, int | float):
            return [torch.tensor(float(self.value))] * len(units)
        values = [torch.as_tensor(value) for value in self.value]
        for unit, value in zip(units, values, strict=True):
            width = model.graph[unit.hook].width if isinstance(unit, Head) else None
            if value.ndim and (width is None or value.shape != (width,)):
                right = f"a number or [d_head={width}]" if isinstance(unit, Head) else "a number"
                raise InputError(f"The value of {unit} must be {right}, found shape {list(value.shape)}.")
        return values


def _one_each(units: Sequence[Unit], values: Sequence[UnitValue] | torch.Tensor) -> list[UnitValue]:
    """One value per unit, each once.

    Raises:
        InputError: if there are not as many values as units, or a unit has two.
    """
    if len(values) != len(units):
        raise InputError(f"Ablate was given {len(units)} units and {len(values)} values; give one each.")
    values_of_units: dict[Unit, UnitValue] = {}
    for unit, value in zip(units, values, strict=True):
        if unit in values_of_units and not torch.equal(torch.as_tensor(values_of_units[unit]), torch.as_tensor(value)):
            raise InputError(
                f"Ablate was given {unit} twice, with different values: {values_of_units[unit]} and {value}; keep one."
            )
        values_of_units[unit] = value
    return list(values_of_units.values())


def _setter(axes: str, values: Sequence[tuple[int, torch.Tensor]], find: Finder) -> HookFunction:
    axis = unit_axis(axes)
    indices = torch.tensor([index for index, _ in values])
    width = max(value.numel() for _, value in values)
    table = torch.stack([value.float().expand(width) for _, value in values])  # [unit 1] or [unit d_head]

    def set_units(activation: torch.Tensor, hook: object) -> torch.Tensor | None:
        rows = find(activation)
        if rows.marks is False:
            return None
        new = table.to(activation)
        new = new if "d_head" in axes else new[:, 0]
        shape = [*activation.shape[:axis], len(indices), *activation.shape[axis + 1 :]]
        return rows.put(activation, activation.index_copy(axis, indices.to(activation.device), new.expand(shape)))

    return set_units
