"""Interventions on single neurons and heads: ablate them, to zero or to given values."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from mmlens.core.errors import InputError
from mmlens.core.units import Head, Neuron
from mmlens.hooks.nodes import Node
from mmlens.hooks.session import HookFunction, HookPair
from mmlens.interventions.positioned import AtPositions, Finder, require_rule
from mmlens.models.hooked import HookedMultimodal
from mmlens.models.part_view import PartView

#: What a unit can be set to: a number, or for a head its whole output `[d_head]`.
UnitValue = float | torch.Tensor


@dataclass(frozen=True)
class Ablate(AtPositions):
    """Set neurons or heads to a constant, by default at every position and in every step of a generation.

    Args:
        units: the neurons or heads.
        value: what they are set to: one number for all (0 takes away what they write), or one value per unit, in their
            order: a number, or for a head a vector `[d_head]`. `mm.mean_activation` gives these for mean-ablation.
        positions: which positions of the prompt, of the batch that runs; `"all"` means every step of a generation too.

    Example:
        >>> from mmlens import Neuron
        >>> with model.intervene(Ablate([Neuron(0, 3), Neuron(1, 5)])):
        ...     logits = model(batch)
        >>> with model.intervene(Ablate([Neuron(0, 3), Neuron(1, 5)], value=[0.1, -0.2], positions="image")):
        ...     logits = model(batch)
    """

    units: Sequence[Neuron | Head]
    value: float | Sequence[UnitValue] | torch.Tensor = field(default=0.0, repr=False)

    def hooks(self, model: HookedMultimodal) -> list[HookPair]:
        """One hook per point that holds some of the units.

        Raises:
            InputError: if there are no units, the model lacks one of them (all that are missing are listed), or there are
                not as many values as units.
        """
        if not len(self.units):
            raise InputError("Ablate was given no neurons or heads.")
        require_units(model, self.units)
        require_rule(self.positions)
        by_point: dict[str, dict[int, torch.Tensor]] = defaultdict(dict)
        for unit, value in zip(self.units, self._values(model), strict=True):
            by_point[unit.hook][unit.index] = value
        return [
            (name, _setter(model.graph[name].axes, values, self.finder(model, model.graph[name])))
            for name, values in by_point.items()
        ]

    def points(self, model: HookedMultimodal) -> list[Node]:
        """The points that hold the units."""
        return [model.graph[name] for name in dict.fromkeys(unit.hook for unit in self.units)]

    def _values(self, model: HookedMultimodal) -> list[torch.Tensor]:
        if isinstance(self.value, int | float):
            return [torch.tensor(float(self.value))] * len(self.units)
        if len(self.value) != len(self.units):
            raise InputError(f"Ablate was given {len(self.units)} units and {len(self.value)} values; give one each.")
        values = [torch.as_tensor(value) for value in self.value]
        for unit, value in zip(self.units, values, strict=True):
            width = model.graph[unit.hook].width if isinstance(unit, Head) else None
            if value.ndim and (width is None or value.shape != (width,)):
                right = f"a number or [d_head={width}]" if isinstance(unit, Head) else "a number"
                raise InputError(f"The value of {unit} must be {right}, found shape {list(value.shape)}.")
        return values


def unit_axis(axes: str) -> int:
    """Index of the axis that a point's units lie along: heads where it has any, else neurons.

    Example:
        >>> unit_axis("batch query head d_head"), unit_axis("batch pos neuron")
        (2, 2)
    """
    words = axes.split()
    return words.index("head") if "head" in words else words.index("neuron")


def require_units(model: HookedMultimodal, units: Sequence[Neuron | Head]) -> None:
    """Check that a model has neurons and heads.

    Raises:
        InputError: if it lacks some; all that are missing are listed.
    """
    missing = [str(unit) for unit in units if not _exists(model, unit)]
    if missing:
        views = {unit.part: model.part(unit.part) for unit in units}
        shapes = ", ".join(
            f"{p}: {view.cfg.n_layers} layers of {view.cfg.d_mlp} neurons and {_heads_of(view)} heads"
            for p, view in views.items()
        )
        raise InputError(
            f"The model has no {', '.join(missing[:8])}{' ...' if len(missing) > 8 else ''}; it has {shapes}."
        )


def _exists(model: HookedMultimodal, unit: Neuron | Head) -> bool:
    if unit.hook not in model.graph or unit.index < 0:
        return False
    if isinstance(unit, Head):
        view = model.part(unit.part)
        attn = view.blocks[unit.layer].attn if view.blocks else None
        return unit.index < (view.cfg.n_heads if attn is None else attn.heads)  # blocks may differ in their heads
    return unit.index < (model.graph[unit.hook].width or 0)  # no view of the part: there may be thousands of neurons


def _heads_of(view: PartView) -> str:
    """How many heads the blocks of a part have: one number, or a range where they differ."""
    counts = [block.attn.heads for block in view.blocks if block.attn is not None] or [view.cfg.n_heads]
    return f"{min(counts)}" if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"


def _setter(axes: str, values: dict[int, torch.Tensor], find: Finder) -> HookFunction:
    axis = unit_axis(axes)
    indices = torch.tensor(list(values))
    width = max(value.numel() for value in values.values())
    table = torch.stack([value.float().expand(width) for value in values.values()])  # [unit 1] or [unit d_head]

    def set_units(activation: torch.Tensor, hook: Any) -> torch.Tensor | None:
        held = find(activation)
        if held.marks is False:
            return None
        new = table.to(activation)
        new = new if "d_head" in axes else new[:, 0]
        shape = [*activation.shape[:axis], len(indices), *activation.shape[axis + 1 :]]
        return held.put(activation, activation.index_copy(axis, indices.to(activation.device), new.expand(shape)))

    return set_units
